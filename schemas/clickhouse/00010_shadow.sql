-- +goose Up
-- A shadow is a run by which a model is tried beside another. It is no state of its document, no failure, and no end that
-- is told; its boxes are among the others, and marked.
ALTER TABLE runs ADD COLUMN IF NOT EXISTS shadow Bool COMMENT 'a model was tried on the document by it: the document does not depend on it';

DROP VIEW IF EXISTS detections;
CREATE VIEW IF NOT EXISTS detections AS
SELECT
    document_id, title, run_id, model, page, k, class, score, x0, y0, x1, y1, dpi, width, height, text, crop_key,
    image_key, annotated_key, trace_id, submitted_at, detected_at, shadow
FROM
(
    -- Pages are joined before they are unfolded into boxes: a page has dozens.
    SELECT
        p.document_id AS document_id, d.title AS title, p.run_id AS run_id, r.model AS model, p.page AS page,
        p.boxes.class AS classes, p.boxes.score AS scores, p.boxes.x0 AS lefts, p.boxes.y0 AS tops, p.boxes.x1 AS rights,
        p.boxes.y1 AS bottoms, p.boxes.text AS texts, p.boxes.crop_key AS crop_keys, p.dpi AS dpi, p.width AS width,
        p.height AS height, p.image_key AS image_key, p.annotated_key AS annotated_key, p.trace_id AS trace_id,
        p.submitted_at AS submitted_at, p.detected_at AS detected_at,
        r.shadow AS shadow
    FROM (SELECT * FROM page_results FINAL) AS p
    LEFT ANY JOIN (SELECT submitted_at, document_id, title FROM documents FINAL) AS d
        ON p.submitted_at = d.submitted_at AND p.document_id = d.document_id
    LEFT ANY JOIN (SELECT submitted_at, document_id, run_id, model, shadow FROM runs FINAL) AS r
        ON p.submitted_at = r.submitted_at AND p.document_id = r.document_id AND p.run_id = r.run_id
)
ARRAY JOIN
    arrayEnumerate(classes) AS k, classes AS class, scores AS score, lefts AS x0, tops AS y0, rights AS x1, bottoms AS y1,
    texts AS text, crop_keys AS crop_key;

DROP VIEW IF EXISTS document_status;
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
    WHERE NOT shadow
)
GROUP BY submitted_at, document_id;

DROP VIEW IF EXISTS failures;
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
    LEFT ANY JOIN (SELECT submitted_at, document_id, run_id, model, shadow FROM runs FINAL) AS r
        ON p.submitted_at = r.submitted_at AND p.document_id = r.document_id AND p.run_id = r.run_id
    WHERE NOT r.shadow
    UNION ALL
    SELECT
        w.submitted_at AS submitted_at, w.document_id AS document_id, w.run_id AS run_id, w.model AS model, toUInt32(0) AS page,
        w.stage AS stage, w.code AS code, w.error AS error, '' AS trace_id, coalesce(w.finished_at, w.submitted_at) AS failed_at
    FROM (SELECT * FROM runs FINAL WHERE state = 'failed' AND pages_failed = 0 AND NOT shadow) AS w
    LEFT ANY JOIN
    (
        SELECT submitted_at, document_id, model, max(decision) AS planned FROM runs FINAL WHERE planned_at IS NOT NULL AND NOT shadow
        GROUP BY submitted_at, document_id, model
    ) AS o
        ON w.submitted_at = o.submitted_at AND w.document_id = o.document_id AND w.model = o.model
    WHERE w.model_digest != '' OR o.planned <= w.decision
) AS f
LEFT ANY JOIN (SELECT submitted_at, document_id, title FROM documents FINAL) AS d
    ON f.submitted_at = d.submitted_at AND f.document_id = d.document_id;

-- +goose Down
DROP VIEW IF EXISTS failures;
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
        w.submitted_at AS submitted_at, w.document_id AS document_id, w.run_id AS run_id, w.model AS model, toUInt32(0) AS page,
        w.stage AS stage, w.code AS code, w.error AS error, '' AS trace_id, coalesce(w.finished_at, w.submitted_at) AS failed_at
    FROM (SELECT * FROM runs FINAL WHERE state = 'failed' AND pages_failed = 0) AS w
    LEFT ANY JOIN
    (
        SELECT submitted_at, document_id, model, max(decision) AS planned FROM runs FINAL WHERE planned_at IS NOT NULL
        GROUP BY submitted_at, document_id, model
    ) AS o
        ON w.submitted_at = o.submitted_at AND w.document_id = o.document_id AND w.model = o.model
    WHERE w.model_digest != '' OR o.planned <= w.decision
) AS f
LEFT ANY JOIN (SELECT submitted_at, document_id, title FROM documents FINAL) AS d
    ON f.submitted_at = d.submitted_at AND f.document_id = d.document_id;

DROP VIEW IF EXISTS document_status;
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

DROP VIEW IF EXISTS detections;
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

ALTER TABLE runs DROP COLUMN IF EXISTS shadow;
