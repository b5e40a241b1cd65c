package problem

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Code is the stable name of a fault; clients match on it.
type Code string

// The codes that the API itself answers with. Those of the stages are in the documents' failures.
const (
	InvalidRequest      Code = "invalid-request"
	InvalidCursor       Code = "invalid-cursor"
	NotFound            Code = "not-found"
	DocumentNotFound    Code = "document-not-found"
	DocumentDeleted     Code = "document-deleted"
	LetterNotFound      Code = "letter-not-found"
	RunNotFound         Code = "run-not-found"
	PageNotFound        Code = "page-not-found"
	PageNotReady        Code = "page-not-ready"
	CropNotFound        Code = "crop-not-found"
	ObjectNotFound      Code = "object-not-found"
	MethodNotAllowed    Code = "method-not-allowed"
	Unauthorized        Code = "unauthorized"
	HostNotAllowed      Code = "host-not-allowed"
	OriginNotAllowed    Code = "origin-not-allowed"
	RateLimited         Code = "rate-limited"
	MalformedUpload     Code = "malformed-upload"
	UnsupportedEncoding Code = "unsupported-request-type"
	MissingFile         Code = "missing-file"
	SeveralFiles        Code = "several-files"
	EmptyFile           Code = "empty-file"
	UnsupportedFile     Code = "unsupported-file-type"
	TooLarge            Code = "file-too-large"
	UploadTimeout       Code = "upload-timeout"
	UploadBroken        Code = "upload-broken"
	Watchers            Code = "too-many-watchers"
	SpoolFull           Code = "spool-full"
	Busy                Code = "too-many-uploads"
	UnknownModel        Code = "unknown-model"
	IdempotencyMismatch Code = "idempotency-mismatch"
	IdempotencyDeleted  Code = "idempotency-deleted"
	InvalidKey          Code = "invalid-idempotency-key"
	SourceNotAllowed    Code = "source-not-allowed"
	SourceNotFound      Code = "source-not-found"
	WebhooksOff         Code = "webhooks-off"
	WebhookNotAllowed   Code = "webhook-url-not-allowed"
	StoreUnavailable    Code = "s3-unavailable"
	KafkaUnavailable    Code = "kafka-unavailable"
	DatabaseUnavailable Code = "clickhouse-unavailable"
	DependencyBroken    Code = "dependency-error"
	Internal            Code = "internal"
	ShuttingDown        Code = "shutting-down"
)

// Entry explains a code: docs/errors.md and the page /docs are made of the same table.
type Entry struct {
	Code   Code
	Status int
	Title  string
	Advice string // what to do
}

// catalogue is in the order of docs/errors.md: what the client can mend first.
var catalogue = []Entry{
	{InvalidRequest, http.StatusUnprocessableEntity, "A parameter, field or header is not acceptable", "Mend what `errors` names; the OpenAPI document tells what is allowed."},
	{InvalidCursor, http.StatusUnprocessableEntity, "The cursor is not one of ours", "Pass `next` of the previous answer unchanged, with the same filters, or begin again without a cursor."},
	{MalformedUpload, http.StatusBadRequest, "The body cannot be read as what it says it is", "Send multipart/form-data with a boundary, or JSON; `curl -F file=@report.pdf` does the former."},
	{UnsupportedEncoding, http.StatusUnsupportedMediaType, "The body has a type that this address does not take", "Send multipart/form-data, or application/json with an s3:// source."},
	{MissingFile, http.StatusUnprocessableEntity, "There is no file in the form", "Add the document as the form field `file`."},
	{SeveralFiles, http.StatusUnprocessableEntity, "There is more than one file in the form", "Send one request for each document."},
	{EmptyFile, http.StatusUnprocessableEntity, "The file has no bytes", "Check the file on your side and send it again."},
	{UnsupportedFile, http.StatusUnsupportedMediaType, "The first bytes are not those of a PDF, PNG, JPEG or TIFF", "Convert the document to one of these; the file's name and declared type play no part."},
	{TooLarge, http.StatusRequestEntityTooLarge, "The file is larger than this server takes", "Split the document, or raise LEAFCUTTER_MAX_UPLOAD_BYTES on the server."},
	{UploadTimeout, http.StatusRequestTimeout, "The body came too slowly", "Send it again over a faster connection, or raise LEAFCUTTER_UPLOAD_TIMEOUT on the server."},
	{UploadBroken, http.StatusBadRequest, "The body ended before its time", "Send it again."},
	{UnknownModel, http.StatusUnprocessableEntity, "No such model", "Name one of those in the detail, or start a detector that serves it; GET /v1/models lists them."},
	{IdempotencyMismatch, http.StatusUnprocessableEntity, "The Idempotency-Key was used for another submission", "Use a new key for another file, title or options; repeat a submission with exactly the same."},
	{IdempotencyDeleted, http.StatusUnprocessableEntity, "The Idempotency-Key names a document that was deleted", "Use a new key to submit the document anew: a deleted one never comes back."},
	{InvalidKey, http.StatusUnprocessableEntity, "The Idempotency-Key is not acceptable", "Use 1 to 255 printable ASCII characters, for example a UUID."},
	{SourceNotAllowed, http.StatusUnprocessableEntity, "The source is in no bucket that this server reads", "Upload the file instead, or add the bucket to S3_SOURCES on the server."},
	{SourceNotFound, http.StatusUnprocessableEntity, "There is no object at the source", "Check bucket and key; put the object there before you submit it."},
	{WebhooksOff, http.StatusUnprocessableEntity, "This server sends no webhooks", "Submit without webhook_url and ask for the document's state, or set LEAFCUTTER_WEBHOOK_SECRET on the server."},
	{WebhookNotAllowed, http.StatusUnprocessableEntity, "The webhook_url leads to an address that this server does not post to", "Name a host on the public internet, or add the network to LEAFCUTTER_WEBHOOK_ALLOW_NETWORKS on the server."},
	{Unauthorized, http.StatusUnauthorized, "An API key is needed", "Send one of the server's keys as `Authorization: Bearer KEY` or `X-API-Key: KEY`."},
	{HostNotAllowed, http.StatusMisdirectedRequest, "This server does not answer to that host name", "Use the address it listens on, or add the name to LEAFCUTTER_ALLOWED_HOSTS."},
	{OriginNotAllowed, http.StatusForbidden, "A page of another site may not do this", "Call the API from a program or from its own pages, or add the origin to LEAFCUTTER_CORS_ORIGINS."},
	{RateLimited, http.StatusTooManyRequests, "Too many requests", "Wait as long as Retry-After says; LEAFCUTTER_RATE_LIMIT sets the rate."},
	{NotFound, http.StatusNotFound, "There is nothing at this address", "See /docs for what there is."},
	{MethodNotAllowed, http.StatusMethodNotAllowed, "This address does not take that method", "See the header Allow, and /docs."},
	{DocumentNotFound, http.StatusNotFound, "No such document", "Check the id; an accepted one is known at once, as queued."},
	{DocumentDeleted, http.StatusGone, "The document was deleted", "Submit it again, without its Idempotency-Key, if it is wanted after all: it gets another id."},
	{LetterNotFound, http.StatusNotFound, "No such dead letter", "See GET /v1/dead-letters: the letters of deleted documents are gone with them."},
	{RunNotFound, http.StatusNotFound, "The document has no such run", "See `runs` of the document; without `run` the newest one is meant."},
	{PageNotFound, http.StatusNotFound, "The run has no such page", "See `page_count` and the run's `options.pages` of the document."},
	{PageNotReady, http.StatusConflict, "The page is not done yet", "Wait for it: the document's `events` tell when pages are done."},
	{CropNotFound, http.StatusNotFound, "The box has no crop", "Boxes below their class's threshold are not cropped; see the run's `options.thresholds`."},
	{ObjectNotFound, http.StatusNotFound, "The object is not in the store any more", "It was pruned or deleted; submit the document again to have it made anew."},
	{Busy, http.StatusServiceUnavailable, "Too many uploads at once", "Wait as long as Retry-After says; LEAFCUTTER_MAX_UPLOADS sets how many are taken at once."},
	{Watchers, http.StatusServiceUnavailable, "Too many clients follow the progress of documents", "Wait as long as Retry-After says, or ask for the document's state now and then."},
	{SpoolFull, http.StatusServiceUnavailable, "There is no room to receive the file", "Wait as long as Retry-After says; LEAFCUTTER_SPOOL_BYTES and the free space of LEAFCUTTER_SPOOL_DIR set the room."},
	{StoreUnavailable, http.StatusServiceUnavailable, "The object store cannot be reached", "Wait as long as Retry-After says and repeat; with an Idempotency-Key that never submits twice."},
	{KafkaUnavailable, http.StatusServiceUnavailable, "Kafka cannot be reached", "Wait as long as Retry-After says and repeat; with an Idempotency-Key that never submits twice."},
	{DatabaseUnavailable, http.StatusServiceUnavailable, "ClickHouse cannot be reached", "Wait as long as Retry-After says. Uploads are accepted all the same."},
	{DependencyBroken, http.StatusBadGateway, "A server behind the API gave an answer that it should not", "See the API's log at the request id; the versions may not fit each other, or a migration is missing."},
	{ShuttingDown, http.StatusServiceUnavailable, "The server is stopping", "Repeat the request; another instance will take it."},
	{Internal, http.StatusInternalServerError, "A fault of the server", "Report it with the request id and the log at that place."},
}

// Catalogue is every code with its explanation, in the order of docs/errors.md.
func Catalogue() []Entry { return slices.Clone(catalogue) }

// entryOf explains a code. One that is not in the catalogue is a mistake in the program, which a test finds; it is
// answered as internal.
func entryOf(code Code) Entry {
	i := slices.IndexFunc(catalogue, func(e Entry) bool { return e.Code == code })
	if i < 0 {
		return entryOf(Internal)
	}
	return catalogue[i]
}

// Markdown is the catalogue as the table in docs/errors.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| code | status | what happened | what to do |\n| --- | --- | --- | --- |\n")
	for _, e := range catalogue {
		b.WriteString("| `" + string(e.Code) + "` | " + strconv.Itoa(e.Status) + " " + http.StatusText(e.Status) + " | " + e.Title + " | " + e.Advice + " |\n")
	}
	return b.String()
}
