-- Dead letters and cancelled jobs, found and counted without reading the others. Most jobs end well and
-- never touch it; those that do not are added in the order in which they end.
CREATE INDEX jobs_ended_badly ON jobs (state) WHERE state IN (4, 5);
