-- +goose Up
CREATE TABLE IF NOT EXISTS documents
(
    document_id   UUID,
    title         String COMMENT 'as submitted, else the file name',
    source_uri    String COMMENT 's3://bucket/key',
    content_type  LowCardinality(String) COMMENT 'media type told by the magic bytes',
    sha256        String COMMENT 'of the source, hexadecimal',
    bytes         UInt64 COMMENT 'size of the source',
    page_count    UInt32 COMMENT '0 where the document could not be opened',
    submitted_at  DateTime64(3, 'UTC'),
    webhook_url   String COMMENT 'told when a run ends; empty for nobody',
    version       UInt64 COMMENT 'of the row: the highest is the answer',
    INDEX by_document document_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(submitted_at)
ORDER BY (submitted_at, document_id)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS runs
(
    run_id          UUID,
    document_id     UUID,
    model           LowCardinality(String),
    model_digest    String COMMENT 'sha256 of the weights and of the manifest fields that change results',
    options         String COMMENT 'the resolved options, JSON with sorted keys',
    dpi             UInt16 COMMENT 'dots per inch of the page images',
    pages_selected  UInt32,
    pages_done      UInt32,
    pages_failed    UInt32,
    boxes           UInt64 COMMENT 'on the pages done, from the score floor of the model on',
    state           LowCardinality(String) COMMENT 'queued, running, waiting-for-model, completed, completed_with_failures, failed, cancelled',
    code            LowCardinality(String) COMMENT 'why it failed; for a run all of whose pages failed, the commonest code of them',
    planned_at      Nullable(DateTime64(3, 'UTC')),
    first_result_at Nullable(DateTime64(3, 'UTC')) COMMENT 'when its first page was done or given up',
    finished_at     Nullable(DateTime64(3, 'UTC')),
    submitted_at    DateTime64(3, 'UTC') COMMENT 'of the document',
    stage           LowCardinality(String) COMMENT 'that failed the run as a whole',
    error           String COMMENT 'what that stage said',
    decision        UInt64 COMMENT 'version of the record that last opened, failed or cancelled the run as a whole',
    version         UInt64 COMMENT 'of the row: the highest is the answer',
    INDEX by_document document_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_run run_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(submitted_at)
ORDER BY (submitted_at, document_id, run_id)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS page_results
(
    document_id   UUID,
    run_id        UUID,
    page          UInt32 COMMENT 'from 1',
    state         LowCardinality(String) COMMENT 'done or failed',
    code          LowCardinality(String) COMMENT 'why the page failed',
    error         String,
    dpi           UInt16,
    width         UInt32 COMMENT 'of the page image, pixels',
    height        UInt32 COMMENT 'of the page image, pixels',
    image_key     String COMMENT 'object key of the page image',
    annotated_key String COMMENT 'object key of the page with its boxes drawn',
    boxes Nested
    (
        class    LowCardinality(String),
        score    Float64,
        x0       Float64,
        y0       Float64,
        x1       Float64,
        y1       Float64,
        crop_key String,
        text     String
    ) COMMENT 'by falling score; pixels of the page image, origin top left, x1 and y1 exclusive',
    render_ms     Float64,
    queue_ms      Float64 COMMENT 'waiting for the detector',
    infer_ms      Float64,
    annotate_ms   Float64,
    trace_id      String,
    detected_at   DateTime64(3, 'UTC') COMMENT 'when the model was done with it; for a page that failed, when it was given up',
    submitted_at  DateTime64(3, 'UTC') COMMENT 'of the document',
    stage         LowCardinality(String) COMMENT 'that failed the page',
    version       UInt64 COMMENT 'of the row: the highest is the answer; a page done outranks its failure',
    INDEX by_document document_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX by_run run_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(submitted_at)
ORDER BY (submitted_at, document_id, run_id, page)
SETTINGS non_replicated_deduplication_window = 1000;

-- +goose Down
DROP TABLE IF EXISTS page_results;
DROP TABLE IF EXISTS runs;
DROP TABLE IF EXISTS documents;
