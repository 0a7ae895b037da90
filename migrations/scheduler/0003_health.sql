-- When a job succeeded last is one step down this index, however many runs there were.
CREATE INDEX runs_succeeded ON runs (job, ended_ms) WHERE state = 'succeeded';
