-- +goose Up
-- As before, but for one thing: that a model is tried as a shadow on a document settles no letter of a submission. The run that
-- was asked for is still to be made.
DROP VIEW IF EXISTS dead_letter_status;
CREATE VIEW IF NOT EXISTS dead_letter_status AS
SELECT
    letter_id,
    multiIf(
        done, CAST('resolved', 'LowCardinality(String)'),
        noted > replay, 'replayed',
        'open') AS state,
    stage, code, error, attempts, document_id, title, run_id, page, pages, topic, record, key, bytes, value_ref, trace_id,
    failures, greatest(noted, replay) AS replays, first_failed_at, failed_at,
    if(noted > 0, toNullable(noted_at), NULL) AS replayed_at,
    record_partition, record_offset, letter_partition, letter_offset
FROM
(
    SELECT
        l.letter_id AS letter_id, l.replay AS replay, l.stage AS stage, l.code AS code, l.error AS error,
        l.attempts AS attempts, l.document_id AS document_id, d.title AS title, l.run_id AS run_id, l.page AS page,
        l.pages AS pages, l.topic AS topic, l.record AS record, l.key AS key, l.bytes AS bytes, l.value_ref AS value_ref,
        l.trace_id AS trace_id, l.failures AS failures, l.first_failed_at AS first_failed_at, l.failed_at AS failed_at,
        l.record_partition AS record_partition, l.record_offset AS record_offset,
        l.letter_partition AS letter_partition, l.letter_offset AS letter_offset,
        n.noted AS noted, n.noted_at AS noted_at,
        multiIf(
            l.topic = 'controls', l.document_id IN (SELECT document_id FROM deletions FINAL WHERE deleted_at IS NOT NULL),
            l.topic = 'document-events', l.event_id IN (SELECT event_id FROM webhook_deliveries FINAL WHERE state = 'delivered'),
            notEmpty(l.pages), hasAll(p.pages_done, l.pages),
            -- A submission that fails has no run yet, or one of which only the model was known: another takes its place.
            l.topic = 'documents' AND l.run_id = toUUID('00000000-0000-0000-0000-000000000000'),
                intDiv(m.planned, 1048576) > toUnixTimestamp64Milli(l.failed_at),
            l.topic = 'documents', intDiv(m.planned_models[r.model], 1048576) > toUnixTimestamp64Milli(l.failed_at),
            l.run_id = toUUID('00000000-0000-0000-0000-000000000000'), d.opened,
            r.state NOT IN ('', 'failed')) AS done
    FROM
    (
        SELECT *, count() OVER (PARTITION BY letter_id) AS failures, min(failed_at) OVER (PARTITION BY letter_id) AS first_failed_at
        FROM dead_letters FINAL
        ORDER BY replay DESC
        LIMIT 1 BY letter_id
    ) AS l
    LEFT ANY JOIN
    (
        SELECT letter_id, max(replay) AS noted, max(replayed_at) AS noted_at FROM dead_letter_replays GROUP BY letter_id
    ) AS n ON l.letter_id = n.letter_id
    LEFT ANY JOIN
    (
        SELECT document_id, title, sha256 != '' OR page_count > 0 AS opened FROM documents FINAL
        WHERE document_id IN (SELECT document_id FROM dead_letters)
    ) AS d ON l.document_id = d.document_id
    LEFT ANY JOIN
    (
        SELECT run_id, model, state FROM runs FINAL WHERE document_id IN (SELECT document_id FROM dead_letters)
    ) AS r ON l.run_id = r.run_id
    LEFT ANY JOIN
    (
        SELECT document_id, max(decision) AS planned, maxMap(map(toString(model), decision)) AS planned_models
        FROM runs FINAL
        WHERE document_id IN (SELECT document_id FROM dead_letters) AND planned_at IS NOT NULL AND NOT shadow
        GROUP BY document_id
    ) AS m ON l.document_id = m.document_id
    LEFT ANY JOIN
    (
        SELECT run_id, groupArray(page) AS pages_done
        FROM page_results FINAL
        WHERE document_id IN (SELECT document_id FROM dead_letters WHERE notEmpty(pages)) AND state = 'done'
        GROUP BY run_id
    ) AS p ON l.run_id = p.run_id
    WHERE l.topic = 'controls' OR l.document_id NOT IN (SELECT document_id FROM deletions)
);

-- +goose Down
DROP VIEW IF EXISTS dead_letter_status;
CREATE VIEW IF NOT EXISTS dead_letter_status AS
SELECT
    letter_id,
    multiIf(
        done, CAST('resolved', 'LowCardinality(String)'),
        noted > replay, 'replayed',
        'open') AS state,
    stage, code, error, attempts, document_id, title, run_id, page, pages, topic, record, key, bytes, value_ref, trace_id,
    failures, greatest(noted, replay) AS replays, first_failed_at, failed_at,
    if(noted > 0, toNullable(noted_at), NULL) AS replayed_at,
    record_partition, record_offset, letter_partition, letter_offset
FROM
(
    SELECT
        l.letter_id AS letter_id, l.replay AS replay, l.stage AS stage, l.code AS code, l.error AS error,
        l.attempts AS attempts, l.document_id AS document_id, d.title AS title, l.run_id AS run_id, l.page AS page,
        l.pages AS pages, l.topic AS topic, l.record AS record, l.key AS key, l.bytes AS bytes, l.value_ref AS value_ref,
        l.trace_id AS trace_id, l.failures AS failures, l.first_failed_at AS first_failed_at, l.failed_at AS failed_at,
        l.record_partition AS record_partition, l.record_offset AS record_offset,
        l.letter_partition AS letter_partition, l.letter_offset AS letter_offset,
        n.noted AS noted, n.noted_at AS noted_at,
        multiIf(
            l.topic = 'controls', l.document_id IN (SELECT document_id FROM deletions FINAL WHERE deleted_at IS NOT NULL),
            l.topic = 'document-events', l.event_id IN (SELECT event_id FROM webhook_deliveries FINAL WHERE state = 'delivered'),
            notEmpty(l.pages), hasAll(p.pages_done, l.pages),
            -- A submission that fails has no run yet, or one of which only the model was known: another takes its place.
            l.topic = 'documents' AND l.run_id = toUUID('00000000-0000-0000-0000-000000000000'),
                intDiv(m.planned, 1048576) > toUnixTimestamp64Milli(l.failed_at),
            l.topic = 'documents', intDiv(m.planned_models[r.model], 1048576) > toUnixTimestamp64Milli(l.failed_at),
            l.run_id = toUUID('00000000-0000-0000-0000-000000000000'), d.opened,
            r.state NOT IN ('', 'failed')) AS done
    FROM
    (
        SELECT *, count() OVER (PARTITION BY letter_id) AS failures, min(failed_at) OVER (PARTITION BY letter_id) AS first_failed_at
        FROM dead_letters FINAL
        ORDER BY replay DESC
        LIMIT 1 BY letter_id
    ) AS l
    LEFT ANY JOIN
    (
        SELECT letter_id, max(replay) AS noted, max(replayed_at) AS noted_at FROM dead_letter_replays GROUP BY letter_id
    ) AS n ON l.letter_id = n.letter_id
    LEFT ANY JOIN
    (
        SELECT document_id, title, sha256 != '' OR page_count > 0 AS opened FROM documents FINAL
        WHERE document_id IN (SELECT document_id FROM dead_letters)
    ) AS d ON l.document_id = d.document_id
    LEFT ANY JOIN
    (
        SELECT run_id, model, state FROM runs FINAL WHERE document_id IN (SELECT document_id FROM dead_letters)
    ) AS r ON l.run_id = r.run_id
    LEFT ANY JOIN
    (
        SELECT document_id, max(decision) AS planned, maxMap(map(toString(model), decision)) AS planned_models
        FROM runs FINAL
        WHERE document_id IN (SELECT document_id FROM dead_letters) AND planned_at IS NOT NULL
        GROUP BY document_id
    ) AS m ON l.document_id = m.document_id
    LEFT ANY JOIN
    (
        SELECT run_id, groupArray(page) AS pages_done
        FROM page_results FINAL
        WHERE document_id IN (SELECT document_id FROM dead_letters WHERE notEmpty(pages)) AND state = 'done'
        GROUP BY run_id
    ) AS p ON l.run_id = p.run_id
    WHERE l.topic = 'controls' OR l.document_id NOT IN (SELECT document_id FROM deletions)
);
