-- Sums by day are kept for a year.

COMMENT ON COLUMN harvest.pruned_windows.day IS 'The day they were finished on, UTC; of those summed up before this was recorded, of the last of them. 1970-01-01: one sum for all that is older than a year';
COMMENT ON TABLE harvest.pruned_fetches IS 'Requests that housekeeping has deleted, summed up by day for a year. harvest.request_figures adds them to those still there';
