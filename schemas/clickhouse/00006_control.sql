-- +goose Up
-- Cancelled or resumed is decided by the sequence of the controls, apart from the decision of the planner: what a record
-- says of a control is the same however late it comes.
ALTER TABLE runs ADD COLUMN IF NOT EXISTS control Int64 COMMENT 'sequence of the control that holds: positive where it cancelled the run, negative where it took a cancellation back, 0 where none came';

ALTER TABLE runs COMMENT COLUMN IF EXISTS decision 'version of the record that last opened or failed the run as a whole';

-- +goose Down
ALTER TABLE runs DROP COLUMN IF EXISTS control;
