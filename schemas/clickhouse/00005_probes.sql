-- +goose Up
-- Whether the server takes writes is found out by writing: one row a prober, replaced each time. A server that only
-- answers reads (read-only, out of disk, out of memory for inserts) is away for whoever lands results.
CREATE TABLE IF NOT EXISTS probes
(
    prober LowCardinality(String) COMMENT 'stage that asked',
    at     DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(at)
ORDER BY prober;

-- +goose Down
DROP TABLE IF EXISTS probes;
