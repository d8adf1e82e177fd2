-- The event file as schema version 1 made it, with one exposure and one outcome.
CREATE TABLE exposures (
    experiment TEXT NOT NULL, version INTEGER NOT NULL, unit TEXT NOT NULL, variant TEXT NOT NULL,
    probability REAL NOT NULL, bucket INTEGER NOT NULL, exposed_at REAL NOT NULL,
    inference_id TEXT NOT NULL, served_model TEXT NOT NULL, tenant TEXT NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, cached INTEGER NOT NULL,
    schema_version INTEGER NOT NULL,
    PRIMARY KEY (experiment, version, unit)
) WITHOUT ROWID;
CREATE TABLE exposure_conflicts (
    experiment TEXT NOT NULL, version INTEGER NOT NULL, unit TEXT NOT NULL, variant TEXT NOT NULL,
    probability REAL NOT NULL, bucket INTEGER NOT NULL, exposed_at REAL NOT NULL,
    inference_id TEXT NOT NULL, served_model TEXT NOT NULL, tenant TEXT NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, cached INTEGER NOT NULL,
    schema_version INTEGER NOT NULL,
    PRIMARY KEY (experiment, version, unit, variant)
) WITHOUT ROWID;
CREATE TABLE outcomes (
    inference_id TEXT PRIMARY KEY, request_id TEXT NOT NULL, finished_at REAL NOT NULL,
    served_model TEXT NOT NULL, tenant TEXT NOT NULL, variant TEXT NOT NULL, experiment TEXT,
    version INTEGER, unit TEXT, exposure TEXT NOT NULL, status TEXT NOT NULL, error_code TEXT,
    cache TEXT NOT NULL, stream INTEGER NOT NULL, finish_reason TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER, duration_s REAL NOT NULL, ttft_s REAL, retries INTEGER NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, schema_version INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX outcomes_by_unit ON outcomes (experiment, version, unit);
INSERT INTO exposures VALUES ('exp', 1, 'u1', 'stable', 0.9, 5000, 1700000000.5, 'chatcmpl-old',
    'okla-chat', 'default', '0123456789ab', 'abab', 0, 1);
INSERT INTO outcomes VALUES ('chatcmpl-old', 'r1', 1700000001.0, 'okla-chat', 'default', 'stable',
    'exp', 1, 'u1', 'enrolled', 'ok', NULL, 'miss', 0, 'stop', 3, 5, 0.5, 0.1, 0, '0123456789ab',
    'abab', 1);
PRAGMA user_version = 1;
