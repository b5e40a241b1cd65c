// Uploads with a bar, and pages that stay fresh. Everything works without it, except that upload answers in JSON.
"use strict";

// Times in the reader's own words.
function tellTimes(root) {
  const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
  for (const el of root.querySelectorAll("time[datetime]")) {
    const at = new Date(el.dateTime);
    const seconds = (at - Date.now()) / 1000;
    el.title = at.toLocaleString();
    for (const [unit, length, below] of [["second", 1, 60], ["minute", 60, 3600], ["hour", 3600, 86400], ["day", 86400, 604800]]) {
      if (Math.abs(seconds) < below) {
        el.textContent = relative.format(Math.round(seconds / length), unit);
        break;
      }
    }
  }
}

// refresh fetches this page again and takes over its changing part; what is typed and scrolled elsewhere stays.
let refreshing = null;
function refresh() {
  refreshing ??= (async () => {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (!answer.ok) return;
      const there = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("fresh");
      const here = document.getElementById("fresh");
      if (there && here && there.outerHTML !== here.dataset.raw) {
        const raw = there.outerHTML;
        here.replaceWith(there);
        there.dataset.raw = raw;
        tellTimes(there);
      }
    } finally {
      refreshing = null;
    }
  })();
  return refreshing;
}

// The list: while something runs, every two seconds; else every ten.
function keepList() {
  const live = document.getElementById("fresh")?.dataset.live;
  setTimeout(async () => {
    if (!document.hidden && !location.search.includes("cursor=")) await refresh().catch(() => {});
    keepList();
  }, live ? 2000 : 10000);
}

// A document: told of progress, at most one refresh in two seconds.
function keepDocument(url) {
  const events = new EventSource(url);
  let due = null;
  events.addEventListener("progress", () => {
    due ??= setTimeout(() => { due = null; if (document.activeElement?.form?.classList.contains("filter") !== true) refresh().catch(() => {}); }, 2000);
  });
  events.addEventListener("end", () => { events.close(); clearTimeout(due); refresh().catch(() => {}); });
}

function send(form, file) {
  const line = document.createElement("li");
  const name = Object.assign(document.createElement("span"), { className: "name", textContent: file.name, title: file.name });
  const bar = Object.assign(document.createElement("progress"), { max: 1, value: 0 });
  const said = Object.assign(document.createElement("span"), { className: "quiet", textContent: "…" });
  line.append(name, bar, said);
  document.getElementById("uploads").append(line);
  const fail = (text) => { said.textContent = text; said.className = "bad"; bar.remove(); };
  if (file.size > Number(form.dataset.max)) { fail("too large"); return Promise.resolve(); }

  const body = new FormData();
  for (const [field, value] of new FormData(form)) if (field !== "file" && value !== "") body.append(field, value);
  body.append("file", file);
  return new Promise((done) => {
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.upload.onprogress = (e) => {
      bar.value = e.loaded / e.total;
      said.textContent = e.loaded < e.total ? Math.floor(100 * e.loaded / e.total) + " %" : "storing";
    };
    request.onerror = () => { fail("the connection broke"); done(); };
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* told by its status */ }
      if (request.status === 202) {
        const link = Object.assign(document.createElement("a"), { href: answer.links.page, textContent: "accepted" });
        said.replaceChildren(link);
        bar.value = 1;
      } else {
        fail(answer.detail || "HTTP " + request.status);
      }
      done(answer);
    };
    request.send(body);
  });
}

function uploads(form) {
  const input = form.querySelector("input[type=file]");
  const take = async (files) => {
    const all = [...files];
    let last;
    for (const file of all) last = await send(form, file); // one after the other: each gets the whole line
    input.value = "";
    if (all.length === 1 && last?.links) location.href = last.links.page;
    else refresh().catch(() => {});
  };
  input.addEventListener("change", () => take(input.files));
  form.addEventListener("submit", (e) => { e.preventDefault(); take(input.files); });
  for (const kind of ["dragenter", "dragover"]) form.addEventListener(kind, (e) => { e.preventDefault(); form.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) form.addEventListener(kind, () => form.classList.remove("over"));
  form.addEventListener("drop", (e) => { e.preventDefault(); take(e.dataTransfer.files); });
}

tellTimes(document);
const form = document.getElementById("upload");
if (form) { uploads(form); keepList(); }
const events = document.getElementById("fresh")?.dataset.events;
if (events) keepDocument(events);
