-- +goose Up
-- What `leafcutter prune` has removed of documents that are still there, so that it need not look for it again. A run that
-- ended after pruned_at has made it anew.
CREATE TABLE IF NOT EXISTS prunes
(
    document_id UUID,
    what        LowCardinality(String) COMMENT 'images, annotated, crops, sources or rows',
    pruned_at   DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(pruned_at)
ORDER BY (document_id, what);

-- +goose Down
DROP TABLE IF EXISTS prunes;
