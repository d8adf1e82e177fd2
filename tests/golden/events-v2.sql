-- The event file as schema version 2 made it, with a few events of every kind.
CREATE TABLE exposure_conflicts (
    experiment TEXT NOT NULL, version INTEGER NOT NULL, unit TEXT NOT NULL, variant TEXT NOT NULL,
    probability REAL NOT NULL, bucket INTEGER NOT NULL, exposed_at REAL NOT NULL,
    inference_id TEXT NOT NULL, served_model TEXT NOT NULL, tenant TEXT NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, cached INTEGER NOT NULL,
    schema_version INTEGER NOT NULL
, PRIMARY KEY (experiment, version, unit, variant)) WITHOUT ROWID;
INSERT INTO "exposure_conflicts" VALUES('exp',1,'u1','candidate',0.9,5000,1700000000.5,'chatcmpl-u1','okla-chat','default','0123456789ab','abababababababababababababababababababababababababababababababab',0,2);
CREATE TABLE exposures (
    experiment TEXT NOT NULL, version INTEGER NOT NULL, unit TEXT NOT NULL, variant TEXT NOT NULL,
    probability REAL NOT NULL, bucket INTEGER NOT NULL, exposed_at REAL NOT NULL,
    inference_id TEXT NOT NULL, served_model TEXT NOT NULL, tenant TEXT NOT NULL,
    config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, cached INTEGER NOT NULL,
    schema_version INTEGER NOT NULL
, PRIMARY KEY (experiment, version, unit)) WITHOUT ROWID;
INSERT INTO "exposures" VALUES('exp',1,'u1','stable',0.9,5000,1700000000.5,'chatcmpl-u1','okla-chat','default','0123456789ab','abababababababababababababababababababababababababababababababab',0,2);
INSERT INTO "exposures" VALUES('exp',1,'u2','stable',0.9,5000,1700000000.0,'chatcmpl-u2','okla-chat','default','0123456789ab','abababababababababababababababababababababababababababababababab',0,2);
CREATE TABLE feedback (
    feedback_id TEXT NOT NULL, received_at REAL NOT NULL, tenant TEXT NOT NULL,
    metric TEXT NOT NULL, metric_type TEXT NOT NULL, level TEXT NOT NULL, direction TEXT NOT NULL,
    target TEXT NOT NULL, value REAL, text TEXT, tags TEXT NOT NULL, idempotency TEXT,
    request_hash TEXT NOT NULL, config_hash TEXT NOT NULL, schema_version INTEGER NOT NULL
, PRIMARY KEY (feedback_id, metric)) WITHOUT ROWID;
INSERT INTO "feedback" VALUES('fb-1',1700000002.0,'default','thumbs','boolean','inference','increase','chatcmpl-1',1.0,NULL,'{}','k','one','0123456789ab',2);
CREATE TABLE feedback_conflicts (
    feedback_id TEXT NOT NULL, received_at REAL NOT NULL, tenant TEXT NOT NULL,
    metric TEXT NOT NULL, metric_type TEXT NOT NULL, level TEXT NOT NULL, direction TEXT NOT NULL,
    target TEXT NOT NULL, value REAL, text TEXT, tags TEXT NOT NULL, idempotency TEXT,
    request_hash TEXT NOT NULL, config_hash TEXT NOT NULL, schema_version INTEGER NOT NULL
, PRIMARY KEY (feedback_id, metric)) WITHOUT ROWID;
INSERT INTO "feedback_conflicts" VALUES('fb-2',1700000002.0,'default','thumbs','boolean','inference','increase','chatcmpl-1',1.0,NULL,'{}','k','two','0123456789ab',2);
CREATE TABLE outcomes (
            inference_id TEXT PRIMARY KEY, request_id TEXT NOT NULL, finished_at REAL NOT NULL,
            served_model TEXT NOT NULL, tenant TEXT NOT NULL, variant TEXT NOT NULL,
            experiment TEXT, version INTEGER, unit TEXT, exposure TEXT NOT NULL,
            status TEXT NOT NULL, error_code TEXT, cache TEXT NOT NULL, stream INTEGER NOT NULL,
            finish_reason TEXT, prompt_tokens INTEGER, completion_tokens INTEGER,
            duration_s REAL NOT NULL, ttft_s REAL, retries INTEGER NOT NULL,
            config_hash TEXT NOT NULL, model_sha256 TEXT NOT NULL, schema_version INTEGER NOT NULL
        , intent TEXT, confidence REAL) WITHOUT ROWID;
INSERT INTO "outcomes" VALUES('chatcmpl-1','r1',1700000001.0,'okla-chat','default','stable','exp',1,'u1','enrolled','ok',NULL,'miss',0,'stop',3,5,0.5,0.1,0,'0123456789ab','abababababababababababababababababababababababababababababababab',2,'saludo',0.75);
INSERT INTO "outcomes" VALUES('chatcmpl-2','r1',1700000000.2,'okla-chat','default','stable','exp',1,'u2','enrolled','ok',NULL,'miss',0,'stop',3,5,0.5,0.1,0,'0123456789ab','abababababababababababababababababababababababababababababababab',2,NULL,NULL);
CREATE TABLE transcripts (
            inference_id TEXT PRIMARY KEY, captured_at REAL NOT NULL, tenant TEXT NOT NULL,
            messages TEXT NOT NULL, answer TEXT NOT NULL, unrated_until REAL NOT NULL,
            keep_until REAL NOT NULL, schema_version INTEGER NOT NULL
        );
INSERT INTO "transcripts" VALUES('chatcmpl-1',1700000001.0,'default','[{"role": "user", "content": "klk"}]','{"intent": "saludo", "response": "Dime a ver"}',1700000100.0,1700001000.0,2);
CREATE INDEX outcomes_by_unit ON outcomes (experiment, version, unit);
CREATE INDEX feedback_by_target ON feedback (level, tenant, target, metric, received_at, feedback_id);
CREATE INDEX feedback_by_key ON feedback (idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX exposures_by_unit ON exposures (unit);
CREATE INDEX transcripts_by_expiry ON transcripts (unrated_until);
PRAGMA user_version = 2;
