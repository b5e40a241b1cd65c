-- +goose Up
-- What failed and why: a row a page, and a row with page 0 for a run that failed as a whole. A page that was done after
-- all is not among them, and neither is a submission that was planned after all: its failure stands in a run of its own,
-- which knows no digest of its model, and which the planned one has taken the place of.
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
        submitted_at, document_id, run_id, model, toUInt32(0) AS page, stage, code, error, '' AS trace_id,
        coalesce(finished_at, submitted_at) AS failed_at
    FROM runs FINAL
    WHERE state = 'failed' AND pages_failed = 0
) AS f
LEFT ANY JOIN (SELECT submitted_at, document_id, title FROM documents FINAL) AS d
    ON f.submitted_at = d.submitted_at AND f.document_id = d.document_id;
