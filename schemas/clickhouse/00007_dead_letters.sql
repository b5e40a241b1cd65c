-- +goose Up
-- One row for each time that a letter's record was given up. The record itself lies in the topic dead-letters, for as
-- long as that keeps it: letter_partition and letter_offset say where.
CREATE TABLE IF NOT EXISTS dead_letters
(
    letter_id        UUID COMMENT 'schemas.LetterID',
    replay           UInt32 COMMENT 'which replay of the letter failed; 0: the record as it first came',
    document_id      UUID COMMENT 'zeros where the record names none',
    run_id           UUID COMMENT 'zeros where the record names none',
    page             UInt32 COMMENT '0 where the record is about more than one page, or none',
    pages            Array(UInt32) COMMENT 'of the run that a replay does again; empty where the record is about no page',
    event_id         UUID COMMENT 'RunEnded.id of a record of document-events; else zeros',
    stage            LowCardinality(String) COMMENT 'that gave the record up',
    code             LowCardinality(String),
    error            String,
    attempts         UInt32 COMMENT 'tries of that stage',
    topic            LowCardinality(String) COMMENT 'of the record, without the deployment''s prefix',
    record_partition Int32,
    record_offset    Int64,
    record           LowCardinality(String) COMMENT 'type and version of the record; empty for raw documents',
    key              String COMMENT 'of the record',
    bytes            UInt64 COMMENT 'of the record''s value, as far as it lies in the letter',
    value_ref        String COMMENT 'object that holds the value where it is too large for a letter',
    letter_partition Int32,
    letter_offset    Int64,
    trace_id         String,
    failed_at        DateTime64(3, 'UTC'),
    version          UInt64 COMMENT 'of the row: the highest is the answer',
    INDEX by_document document_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (letter_id, replay)
SETTINGS non_replicated_deduplication_window = 1000;

-- One row for each time that a letter was replayed.
CREATE TABLE IF NOT EXISTS dead_letter_replays
(
    letter_id   UUID,
    replay      UInt32 COMMENT 'from 1',
    document_id UUID,
    replayed_at DateTime64(3, 'UTC'),
    INDEX by_document document_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(replayed_at)
ORDER BY (letter_id, replay)
SETTINGS non_replicated_deduplication_window = 1000;

-- One row a letter, as it last failed. A letter is resolved once nothing of it is left to be done, by whichever way; else
-- replayed while its last replay has not failed; else open. Replays are counted, not timed: clocks of several machines
-- cannot mistake an old failure for a new one. Letters of deleted documents are not shown, but for those that keep a
-- deletion from being finished.
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

-- +goose Down
DROP VIEW IF EXISTS dead_letter_status;
DROP TABLE IF EXISTS dead_letter_replays;
DROP TABLE IF EXISTS dead_letters;
