-- What the dashboard looks for among a million requests.

CREATE INDEX fetches_wrong ON harvest.fetches (at) WHERE outcome <> 'complete';
