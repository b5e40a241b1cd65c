-- +goose Up
-- One row a box. k counts from 1 in the order of falling score within its page.
CREATE VIEW IF NOT EXISTS detections AS
SELECT
    document_id, title, run_id, model, page, k, class, score, x0, y0, x1, y1, dpi, width, height, text, crop_key,
    image_key, annotated_key, trace_id, submitted_at, detected_at
FROM
(
    -- Pages are joined before they are unfolded into boxes: a page has dozens.
    SELECT
        p.document_id AS document_id, d.title AS title, p.run_id AS run_id, r.model AS model, p.page AS page,
        p.boxes.class AS classes, p.boxes.score AS scores, p.boxes.x0 AS lefts, p.boxes.y0 AS tops, p.boxes.x1 AS rights,
        p.boxes.y1 AS bottoms, p.boxes.text AS texts, p.boxes.crop_key AS crop_keys, p.dpi AS dpi, p.width AS width,
        p.height AS height, p.image_key AS image_key, p.annotated_key AS annotated_key, p.trace_id AS trace_id,
        p.submitted_at AS submitted_at, p.detected_at AS detected_at
    FROM (SELECT * FROM page_results FINAL) AS p
    LEFT ANY JOIN (SELECT submitted_at, document_id, title FROM documents FINAL) AS d
        ON p.submitted_at = d.submitted_at AND p.document_id = d.document_id
    LEFT ANY JOIN (SELECT submitted_at, document_id, run_id, model FROM runs FINAL) AS r
        ON p.submitted_at = r.submitted_at AND p.document_id = r.document_id AND p.run_id = r.run_id
)
ARRAY JOIN
    arrayEnumerate(classes) AS k, classes AS class, scores AS score, lefts AS x0, tops AS y0, rights AS x1, bottoms AS y1,
    texts AS text, crop_keys AS crop_key;

-- One row a document, with the state and counters of its newest run: the one that was planned, failed or cancelled
-- last. A document without a run is queued.
CREATE VIEW IF NOT EXISTS document_status AS
SELECT
    document_id,
    max(own_title) AS title,
    argMax(own_state, rank) AS state,
    argMax(own_selected, rank) AS pages_selected,
    argMax(own_done, rank) AS pages_done,
    argMax(own_failed, rank) AS pages_failed,
    argMax(own_boxes, rank) AS boxes,
    submitted_at,
    argMax(own_finished, rank).1 AS finished_at
FROM
(
    SELECT
        document_id, submitted_at, title AS own_title, CAST('queued', 'LowCardinality(String)') AS own_state,
        toUInt32(0) AS own_selected, toUInt32(0) AS own_done, toUInt32(0) AS own_failed, toUInt64(0) AS own_boxes,
        tuple(CAST(NULL, 'Nullable(DateTime64(3, \'UTC\'))')) AS own_finished,
        tuple(toUInt8(0), toUInt64(0), toUUID('00000000-0000-0000-0000-000000000000')) AS rank
    FROM documents FINAL
    UNION ALL
    SELECT
        document_id, submitted_at, '' AS own_title, state AS own_state,
        pages_selected AS own_selected, pages_done AS own_done, pages_failed AS own_failed, boxes AS own_boxes,
        tuple(finished_at) AS own_finished,
        tuple(toUInt8(1), decision, run_id) AS rank
    FROM runs FINAL
)
GROUP BY submitted_at, document_id;

-- What failed and why: a row a page, and a row with page 0 for a run that failed as a whole.
CREATE VIEW IF NOT EXISTS failures AS
SELECT
    f.document_id AS document_id,
    d.title AS title,
    f.run_id AS run_id,
    f.model AS model,
    f.page AS page,
    f.stage AS stage,
    f.code AS code,
    f.error AS error,
    f.trace_id AS trace_id,
    f.submitted_at AS submitted_at,
    f.failed_at AS failed_at
FROM
(
    SELECT
        p.submitted_at AS submitted_at, p.document_id AS document_id, p.run_id AS run_id, r.model AS model,
        p.page AS page, p.stage AS stage, p.code AS code, p.error AS error, p.trace_id AS trace_id,
        p.detected_at AS failed_at
    FROM (SELECT * FROM page_results FINAL WHERE state = 'failed') AS p
    LEFT ANY JOIN (SELECT submitted_at, document_id, run_id, model FROM runs FINAL) AS r
        ON p.submitted_at = r.submitted_at AND p.document_id = r.document_id AND p.run_id = r.run_id
    UNION ALL
    SELECT
        submitted_at, document_id, run_id, model, toUInt32(0) AS page, stage, code, error, '' AS trace_id,
        coalesce(finished_at, submitted_at) AS failed_at
    FROM runs FINAL
    WHERE state = 'failed' AND pages_failed = 0
) AS f
LEFT ANY JOIN (SELECT submitted_at, document_id, title FROM documents FINAL) AS d
    ON f.submitted_at = d.submitted_at AND f.document_id = d.document_id;

-- +goose Down
DROP VIEW IF EXISTS failures;
DROP VIEW IF EXISTS document_status;
DROP VIEW IF EXISTS detections;
