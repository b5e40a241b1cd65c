-- +goose Up
-- What was deleted for ever. A document named here is not to be landed again.
CREATE TABLE IF NOT EXISTS deletions
(
    document_id  UUID,
    requested_at DateTime64(3, 'UTC'),
    sequence     Int64 COMMENT 'of the control that asked for it',
    deleted_at   Nullable(DateTime64(3, 'UTC')) COMMENT 'when its objects and rows were gone',
    objects      UInt64 COMMENT 'deleted',
    version      UInt64 COMMENT 'of the row: the highest is the answer'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY document_id
SETTINGS non_replicated_deduplication_window = 1000;

-- One row an event and URL; each try replaces it.
CREATE TABLE IF NOT EXISTS webhook_deliveries
(
    event_id     UUID COMMENT 'RunEnded.id: the same end has the same id, and is delivered once',
    document_id  UUID,
    run_id       UUID,
    url          String,
    state        LowCardinality(String) COMMENT 'pending, delivered or failed',
    attempts     UInt32,
    status_code  UInt16 COMMENT 'of the last answer; 0 where there was none',
    error        String,
    event_at     DateTime64(3, 'UTC') COMMENT 'when the run ended',
    attempted_at Nullable(DateTime64(3, 'UTC')),
    next_at      Nullable(DateTime64(3, 'UTC')),
    delivered_at Nullable(DateTime64(3, 'UTC')),
    version      UInt64 COMMENT 'of the row: the highest is the answer',
    INDEX by_event event_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_document document_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(event_at)
ORDER BY (event_at, event_id, url)
SETTINGS non_replicated_deduplication_window = 1000;

-- +goose Down
DROP TABLE IF EXISTS webhook_deliveries;
DROP TABLE IF EXISTS deletions;
