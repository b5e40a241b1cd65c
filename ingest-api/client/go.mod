module leafcutter/ingest-api/client

go 1.26.0

require leafcutter/schemas v0.0.0

replace leafcutter/schemas => ../../schemas
