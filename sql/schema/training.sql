-- Training: what users ask for (trainings, runs), what becomes of it (attempts, events, metrics, checkpoints, artifacts,
-- evaluations), and the queue. A run is queued, running or paused until it ends; each execution of it is an attempt, and the
-- attempt's number is the epoch that every write of a worker is checked against.
-- Over 400 lines because every column carries its comment.

create type pgtrain.run_status as enum ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled');
comment on type pgtrain.run_status is 'State of a run; the last three are final until retry_run';
create type pgtrain.end_reason as enum (
    'completed', 'cancelled_by_user', 'paused_by_user', 'limit_reached', 'max_duration', 'config_invalid', 'data_invalid',
    'out_of_memory', 'device_fault', 'non_finite_loss', 'trainer_crashed', 'trainer_hung', 'protocol_violation',
    'worker_lost', 'server_shutdown', 'preempted', 'model_missing', 'artifact_invalid', 'permission_revoked',
    'io_error', 'internal_error');
comment on type pgtrain.end_reason is 'Why a run or an attempt ended';
create type pgtrain.task_status as enum ('started', 'completed', 'failed');
comment on type pgtrain.task_status is 'State of a part of a run';
create type pgtrain_private.stop_request as enum ('none', 'cancel', 'pause', 'limit');
comment on type pgtrain_private.stop_request is 'What a running attempt was asked to do';

create table pgtrain.trainings (
    id bigint generated always as identity primary key,
    owner_id bigint not null references pgtrain.users on delete cascade,
    name text not null check (length(name) between 1 and 100),
    description text,
    config jsonb not null default '{}' check (jsonb_typeof(config) = 'object'),
    trigger_word text check (length(trigger_word) between 1 and 100),
    base_model jsonb,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (owner_id, name)
);
comment on table pgtrain.trainings is 'What a user wants to train: the defaults of its runs. Each run freezes its own copy';
comment on column pgtrain.trainings.id is 'Key';
comment on column pgtrain.trainings.owner_id is 'User it belongs to';
comment on column pgtrain.trainings.name is 'Name, unique for its owner';
comment on column pgtrain.trainings.description is 'Free text';
comment on column pgtrain.trainings.config is 'Configuration that runs start from';
comment on column pgtrain.trainings.trigger_word is 'Word that calls up what was trained';
comment on column pgtrain.trainings.base_model is 'Model to start from: {id, name, url, filename, type}; null trains from scratch';
comment on column pgtrain.trainings.created_at is 'When made';
comment on column pgtrain.trainings.updated_at is 'When last changed';
alter table pgtrain.training_images add foreign key (training_id) references pgtrain.trainings on delete cascade;
alter table pgtrain.image_groups add foreign key (training_id) references pgtrain.trainings on delete cascade;

-- No check constraints here: the server reads each anew for every statement, and submit_run makes them all.
-- Status is in no index on purpose: then a change of it touches no index (HOT), and finished runs cost a claim nothing.
create table pgtrain.training_runs (
    id bigint generated always as identity primary key,
    owner_id bigint not null references pgtrain.users on delete cascade,
    training_id bigint references pgtrain.trainings on delete cascade,
    image_group_id bigint references pgtrain.image_groups on delete set null,
    name text not null,
    description text,
    job_type text not null default 'experimental',
    training_type text not null default 'from_scratch',
    status pgtrain.run_status not null default 'queued',
    end_reason pgtrain.end_reason,
    error_message text,
    error_detail text,
    error_hint text,
    config jsonb not null,
    config_hash bytea not null,
    data_hash bytea,
    data_bytes bigint not null default 0,
    validation_hash bytea,
    base_model_id bigint,
    base_model_hash bytea,
    planned_steps bigint not null,
    planned_tokens bigint not null,
    peak_bytes_planned bigint not null default 0,
    parameters bigint not null default 0,
    idempotency_key text,
    priority smallint not null default 0,
    max_attempts smallint not null,
    attempt integer not null default 0,
    failed_attempts integer not null default 0,
    available_at timestamptz,
    step bigint not null default 0,
    loss double precision,
    learning_rate double precision,
    tokens bigint not null default 0,
    tokens_per_second double precision,
    seconds double precision not null default 0,
    peak_bytes bigint,
    loss_before double precision,
    loss_after double precision,
    metrics_before jsonb,
    metrics_after jsonb,
    threads integer,
    publish_as text,
    metadata jsonb not null default '{}',
    xp_gained integer,
    level_up_info jsonb,
    progressed_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
) with (fillfactor = 70);
create index training_runs_owner_id_idx on pgtrain.training_runs (owner_id, id);
create index training_runs_training_id_idx on pgtrain.training_runs (training_id) where training_id is not null;
create unique index training_runs_idempotency_key on pgtrain.training_runs (owner_id, idempotency_key) where idempotency_key is not null;
create index training_runs_base_model_id_idx on pgtrain.training_runs (base_model_id) where base_model_id is not null;
create index training_runs_image_group_id_idx on pgtrain.training_runs (image_group_id) where image_group_id is not null;
comment on table pgtrain.training_runs is 'Runs: what was asked for, with its frozen configuration and data, and what has become of it';
comment on column pgtrain.training_runs.id is 'Key, and its age in the queue: the lower the earlier, also when it is queued again';
comment on column pgtrain.training_runs.owner_id is 'User it belongs to';
comment on column pgtrain.training_runs.training_id is 'Training it was started from, if any';
comment on column pgtrain.training_runs.image_group_id is 'Set of images it trains on, null for none or all of the training';
comment on column pgtrain.training_runs.name is 'Name to show';
comment on column pgtrain.training_runs.description is 'Free text';
comment on column pgtrain.training_runs.job_type is 'What the owner calls this kind of run';
comment on column pgtrain.training_runs.training_type is 'Method of training';
comment on column pgtrain.training_runs.status is 'State';
comment on column pgtrain.training_runs.end_reason is 'Why it ended or paused; null while it is under way';
comment on column pgtrain.training_runs.error_message is 'What went wrong at last';
comment on column pgtrain.training_runs.error_detail is 'What was found';
comment on column pgtrain.training_runs.error_hint is 'What to do';
comment on column pgtrain.training_runs.config is 'Frozen configuration: every field has its value';
comment on column pgtrain.training_runs.config_hash is 'SHA-256 of the canonical text of the configuration';
comment on column pgtrain.training_runs.data_hash is 'Hash over the frozen datasets that it trains on; see training_run_datasets';
comment on column pgtrain.training_runs.data_bytes is 'Bytes of text in the frozen datasets that it trains on';
comment on column pgtrain.training_runs.validation_hash is 'Content of the dataset that it is evaluated on when the run was submitted, null where a part of its own samples is held out';
comment on column pgtrain.training_runs.base_model_id is 'Model it starts from, null for none; no foreign key: base_model_hash says what it was';
comment on column pgtrain.training_runs.base_model_hash is 'Content of that model when the run was submitted';
comment on column pgtrain.training_runs.planned_steps is 'Optimiser updates it will make';
comment on column pgtrain.training_runs.planned_tokens is 'Tokens it will look at; held against the usage limit';
comment on column pgtrain.training_runs.peak_bytes_planned is 'Device memory it will need, computed before anything was allocated';
comment on column pgtrain.training_runs.parameters is 'Trainable numbers of the model';
comment on column pgtrain.training_runs.idempotency_key is 'Given by the client: a second submit with the same key returns this run';
comment on column pgtrain.training_runs.priority is 'Order among the runs of the same owner, higher first';
comment on column pgtrain.training_runs.max_attempts is 'Failed attempts after which it is given up';
comment on column pgtrain.training_runs.attempt is 'Number of the latest attempt, which is the epoch that fences its writes';
comment on column pgtrain.training_runs.failed_attempts is 'Attempts that count against max_attempts: raised before the work, lowered when the attempt was not at fault';
comment on column pgtrain.training_runs.available_at is 'Not claimed before: backoff after a failure, or the start its owner asked for';
comment on column pgtrain.training_runs.step is 'Steps done';
comment on column pgtrain.training_runs.loss is 'Training loss of that step';
comment on column pgtrain.training_runs.learning_rate is 'Learning rate of that step';
comment on column pgtrain.training_runs.tokens is 'Tokens trained on';
comment on column pgtrain.training_runs.tokens_per_second is 'Speed as last measured';
comment on column pgtrain.training_runs.seconds is 'Time on a device, over all attempts';
comment on column pgtrain.training_runs.peak_bytes is 'Device memory as measured';
comment on column pgtrain.training_runs.loss_before is 'Held-out loss before training, measured';
comment on column pgtrain.training_runs.loss_after is 'Held-out loss after training, measured';
comment on column pgtrain.training_runs.metrics_before is 'What was measured on the held-out samples before training: loss, token_accuracy, and on how many samples and tokens';
comment on column pgtrain.training_runs.metrics_after is 'The same after training';
comment on column pgtrain.training_runs.threads is 'Threads on the CPU: fixed by the first attempt, because equal bytes need equal threads';
comment on column pgtrain.training_runs.publish_as is 'Name of the model to publish, null for the name of the run';
comment on column pgtrain.training_runs.metadata is 'Free attributes';
comment on column pgtrain.training_runs.xp_gained is 'Experience its minion gained';
comment on column pgtrain.training_runs.level_up_info is 'Levels its minion gained';
comment on column pgtrain.training_runs.progressed_at is 'Last progress';
comment on column pgtrain.training_runs.started_at is 'Begin of the first attempt';
comment on column pgtrain.training_runs.ended_at is 'When it reached a final state';
comment on column pgtrain.training_runs.created_at is 'When submitted';
comment on column pgtrain.training_runs.updated_at is 'When last changed';

-- The frozen (dataset, sample_count, content_hash) names data that never changes, because datasets only grow.
create table pgtrain.training_run_datasets (
    id bigint generated always as identity primary key,
    training_run_id bigint not null references pgtrain.training_runs on delete cascade,
    owner_id bigint not null,
    dataset_id bigint references pgtrain.datasets on delete set null,
    content_hash bytea not null,
    sample_count bigint not null,
    text_bytes bigint not null,
    is_validation boolean not null default false,
    unique (training_run_id, dataset_id)
);
create index training_run_datasets_dataset_id_idx on pgtrain.training_run_datasets (dataset_id);
comment on table pgtrain.training_run_datasets is 'Datasets of a run as they were when it was submitted';
comment on column pgtrain.training_run_datasets.id is 'Key, and the order in which they are read';
comment on column pgtrain.training_run_datasets.training_run_id is 'Run';
comment on column pgtrain.training_run_datasets.owner_id is 'Owner of the run';
comment on column pgtrain.training_run_datasets.dataset_id is 'Dataset, null once it was deleted';
comment on column pgtrain.training_run_datasets.content_hash is 'Hash of the samples that count';
comment on column pgtrain.training_run_datasets.sample_count is 'Samples that count: the first so many';
comment on column pgtrain.training_run_datasets.text_bytes is 'Their text in bytes';
comment on column pgtrain.training_run_datasets.is_validation is 'Whether the run is evaluated on it, in place of training on it';

-- An attempt without ended_at is a lease: the right of one worker to one run on one device.
create table pgtrain.run_attempts (
    run_id bigint not null references pgtrain.training_runs on delete cascade,
    attempt integer not null,
    owner_id bigint not null,
    device_id bigint,
    device_name text,
    device_kind pgtrain.device_kind,
    worker_pid integer not null,
    incarnation bigint not null,
    requested pgtrain_private.stop_request not null default 'none',
    resumed_from_step bigint,
    started_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    ended_at timestamptz,
    end_reason pgtrain.end_reason,
    exit_status text,
    message text,
    primary key (run_id, attempt)
) with (fillfactor = 80);
-- By the key, although it is read whole: chosen for a look-up of one attempt it must not be a walk over dead entries.
create index run_attempts_live_idx on pgtrain.run_attempts (run_id, attempt) where ended_at is null;
comment on table pgtrain.run_attempts is 'Executions of runs; one that has not ended is the lease of its worker';
comment on column pgtrain.run_attempts.run_id is 'Run';
comment on column pgtrain.run_attempts.attempt is 'Number within the run: the epoch of its writes';
comment on column pgtrain.run_attempts.owner_id is 'Owner of the run';
comment on column pgtrain.run_attempts.device_id is 'Device it ran on; no foreign key, because devices come and go';
comment on column pgtrain.run_attempts.device_name is 'Name of that device then';
comment on column pgtrain.run_attempts.device_kind is 'Kind of that device';
comment on column pgtrain.run_attempts.worker_pid is 'Process of the worker';
comment on column pgtrain.run_attempts.incarnation is 'Life of the server''s shared memory in which that process ran';
comment on column pgtrain.run_attempts.requested is 'What its worker was asked to do';
comment on column pgtrain.run_attempts.resumed_from_step is 'Step of the checkpoint it began with, null for the beginning';
comment on column pgtrain.run_attempts.started_at is 'When it was claimed';
comment on column pgtrain.run_attempts.expires_at is 'When the lease ends unless renewed';
comment on column pgtrain.run_attempts.ended_at is 'When it ended';
comment on column pgtrain.run_attempts.end_reason is 'Why it ended';
comment on column pgtrain.run_attempts.exit_status is 'How the trainer ended, if not as it should';
comment on column pgtrain.run_attempts.message is 'What was said about it';

-- Only queued runs, so the claim never meets finished ones. rank = -priority, so that one ascending index gives the order.
create table pgtrain_private.run_queue (
    run_id bigint primary key references pgtrain.training_runs on delete cascade,
    owner_id bigint not null,
    rank smallint not null,
    memory_bytes bigint not null default 0,
    available_at timestamptz
);
create index run_queue_order_idx on pgtrain_private.run_queue (owner_id, rank, run_id) where available_at is null;
create index run_queue_due_idx on pgtrain_private.run_queue (available_at) where available_at is not null;
comment on table pgtrain_private.run_queue is 'The queued runs; with available_at set they wait for that time';

create table pgtrain_private.owner_shares (
    owner_id bigint primary key references pgtrain.users on delete cascade,
    weight double precision not null default 1 check (weight > 0 and weight <= 1000)
);
comment on table pgtrain_private.owner_shares is 'Weights of users in the fair order; who has no row weighs 1';

create table pgtrain_private.plan_cache (
    config_hash bytea not null,
    device_kind pgtrain.device_kind not null,
    data_bytes bigint not null,
    peak_bytes bigint not null,
    parameters bigint not null,
    device_memory_bytes bigint not null,
    plan jsonb not null,
    created_at timestamptz not null default now(),
    primary key (config_hash, device_kind, data_bytes)
);
comment on table pgtrain_private.plan_cache is 'Memory plans computed by the trainer, by configuration, kind of device and size class of the data';

create table pgtrain.training_tasks (
    id bigint generated always as identity primary key,
    training_run_id bigint not null references pgtrain.training_runs on delete cascade,
    owner_id bigint not null,
    task text not null,
    status pgtrain.task_status not null default 'started',
    message_id text not null,
    data jsonb,
    started_at timestamptz not null default clock_timestamp(),
    completed_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (training_run_id, message_id)
);
comment on table pgtrain.training_tasks is 'Parts of a run: read data, train, evaluate, publish ...';
comment on column pgtrain.training_tasks.id is 'Key';
comment on column pgtrain.training_tasks.training_run_id is 'Run';
comment on column pgtrain.training_tasks.owner_id is 'Owner of the run';
comment on column pgtrain.training_tasks.task is 'Name of the part';
comment on column pgtrain.training_tasks.status is 'How far it is';
comment on column pgtrain.training_tasks.message_id is 'ATTEMPT/NUMBER: which message began it';
comment on column pgtrain.training_tasks.data is 'More about it';
comment on column pgtrain.training_tasks.started_at is 'Begin';
comment on column pgtrain.training_tasks.completed_at is 'End';
comment on column pgtrain.training_tasks.created_at is 'When made';
comment on column pgtrain.training_tasks.updated_at is 'When last changed';

create table pgtrain.training_statuses (
    id bigint generated always as identity primary key,
    training_run_id bigint not null references pgtrain.training_runs on delete cascade,
    owner_id bigint not null,
    status text not null,
    data jsonb,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);
create index training_statuses_training_run_id_idx on pgtrain.training_statuses (training_run_id, id);
comment on table pgtrain.training_statuses is 'Events of runs; rows are only added';
comment on column pgtrain.training_statuses.id is 'Key';
comment on column pgtrain.training_statuses.training_run_id is 'Run';
comment on column pgtrain.training_statuses.owner_id is 'Owner of the run';
comment on column pgtrain.training_statuses.status is 'What happened';
comment on column pgtrain.training_statuses.data is 'More about it';
comment on column pgtrain.training_statuses.created_at is 'When';
comment on column pgtrain.training_statuses.updated_at is 'Same as created_at';

create table pgtrain.run_metrics (
    run_id bigint not null references pgtrain.training_runs on delete cascade,
    attempt integer not null,
    step bigint not null,
    owner_id bigint not null,
    loss double precision,
    learning_rate double precision,
    gradient_norm double precision,
    tokens bigint,
    tokens_per_second double precision,
    held_out_loss double precision,
    accuracy double precision,
    held_out_accuracy double precision,
    extra jsonb,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (run_id, step, attempt)
);
comment on table pgtrain.run_metrics is 'Numbers measured along a run; a step done again by a later attempt has a row of each';
comment on column pgtrain.run_metrics.run_id is 'Run';
comment on column pgtrain.run_metrics.attempt is 'Attempt that measured it';
comment on column pgtrain.run_metrics.step is 'Step';
comment on column pgtrain.run_metrics.owner_id is 'Owner of the run';
comment on column pgtrain.run_metrics.loss is 'Training loss';
comment on column pgtrain.run_metrics.learning_rate is 'Learning rate';
comment on column pgtrain.run_metrics.gradient_norm is 'Norm of the gradient before clipping';
comment on column pgtrain.run_metrics.tokens is 'Tokens trained on since the first attempt began';
comment on column pgtrain.run_metrics.tokens_per_second is 'Speed';
comment on column pgtrain.run_metrics.held_out_loss is 'Loss on the held-out samples';
comment on column pgtrain.run_metrics.accuracy is 'Share of the trained tokens that were the likeliest';
comment on column pgtrain.run_metrics.held_out_accuracy is 'Share of the held-out tokens that were the likeliest';
comment on column pgtrain.run_metrics.extra is 'Other numbers by name';
comment on column pgtrain.run_metrics.recorded_at is 'When the worker wrote it';

create table pgtrain.run_samples (
    id bigint generated always as identity primary key,
    run_id bigint not null references pgtrain.training_runs on delete cascade,
    attempt integer not null,
    owner_id bigint not null,
    step bigint not null,
    prompt text not null,
    content text not null,
    created_at timestamptz not null default clock_timestamp()
);
create index run_samples_run_id_idx on pgtrain.run_samples (run_id, id);
comment on table pgtrain.run_samples is 'Text that the model of a run wrote on the way';
comment on column pgtrain.run_samples.id is 'Key';
comment on column pgtrain.run_samples.run_id is 'Run';
comment on column pgtrain.run_samples.attempt is 'Attempt';
comment on column pgtrain.run_samples.owner_id is 'Owner of the run';
comment on column pgtrain.run_samples.step is 'Step';
comment on column pgtrain.run_samples.prompt is 'What it was given';
comment on column pgtrain.run_samples.content is 'What it wrote';
comment on column pgtrain.run_samples.created_at is 'When';

-- Stored files of runs and of imported models: in rows up to pgtrain.row_storage_limit, else in the server's folder pgtrain/artifacts
-- under this id.
create type pgtrain_private.storage_kind as enum ('rows', 'file');
comment on type pgtrain_private.storage_kind is 'Where the bytes of a stored file are';
create table pgtrain_private.stored_files (
    id bigint generated always as identity primary key,
    run_id bigint references pgtrain.training_runs on delete cascade,
    model_id bigint references pgtrain.models on delete cascade,
    owner_id bigint,
    storage pgtrain_private.storage_kind not null,
    bytes bigint not null check (bytes >= 0),
    counted_bytes bigint not null default 0,
    sha256 bytea not null check (length(sha256) = 32),
    created_at timestamptz not null default clock_timestamp(),
    check (num_nonnulls(run_id, model_id) = 1)
);
create index stored_files_run_id_idx on pgtrain_private.stored_files (run_id);
create index stored_files_model_id_idx on pgtrain_private.stored_files (model_id) where model_id is not null;
-- For the sweep of the folder: it shall not read the rows of all runs that ever were.
create index stored_files_on_disk_idx on pgtrain_private.stored_files (id) where storage = 'file';
comment on table pgtrain_private.stored_files is 'Checkpoints, artifacts and files of imported models, verified by hash before their row was committed';
create table pgtrain_private.file_chunks (
    file_id bigint not null references pgtrain_private.stored_files on delete cascade,
    ordinal integer not null,
    content bytea not null,
    primary key (file_id, ordinal)
);
-- Weights do not compress, and a chunk is always read whole.
alter table pgtrain_private.file_chunks alter column content set storage external;
comment on table pgtrain_private.file_chunks is 'The bytes of stored files that are kept in rows';

create table pgtrain.checkpoints (
    id bigint generated always as identity primary key,
    run_id bigint not null references pgtrain.training_runs on delete cascade,
    attempt integer not null,
    owner_id bigint not null,
    step bigint not null,
    file_id bigint not null references pgtrain_private.stored_files on delete cascade,
    bytes bigint not null,
    sha256 text not null,
    created_at timestamptz not null default clock_timestamp(),
    unique (run_id, step)
);
create index checkpoints_file_id_idx on pgtrain.checkpoints (file_id);
comment on table pgtrain.checkpoints is 'Points from which a run continues exactly: the latest keep_checkpoints, and the best with keep_best; once it has succeeded these stay only where more than the latest was asked for';
comment on column pgtrain.checkpoints.id is 'Key';
comment on column pgtrain.checkpoints.run_id is 'Run';
comment on column pgtrain.checkpoints.attempt is 'Attempt that wrote it';
comment on column pgtrain.checkpoints.owner_id is 'Owner of the run';
comment on column pgtrain.checkpoints.step is 'Steps done';
comment on column pgtrain.checkpoints.file_id is 'Stored file';
comment on column pgtrain.checkpoints.bytes is 'Size';
comment on column pgtrain.checkpoints.sha256 is 'Hash in hexadecimal';
comment on column pgtrain.checkpoints.created_at is 'When';

create table pgtrain.artifacts (
    id bigint generated always as identity primary key,
    run_id bigint not null references pgtrain.training_runs on delete cascade,
    owner_id bigint not null,
    name text not null,
    file_id bigint not null references pgtrain_private.stored_files on delete cascade,
    bytes bigint not null,
    sha256 text not null,
    created_at timestamptz not null default clock_timestamp()
);
create unique index artifacts_run_id_name_key on pgtrain.artifacts (run_id, (name || ''));
create index artifacts_file_id_idx on pgtrain.artifacts (file_id);
comment on table pgtrain.artifacts is 'Files that a run produced: model.safetensors, config.json, tokenizer.json';
comment on column pgtrain.artifacts.id is 'Key';
comment on column pgtrain.artifacts.run_id is 'Run';
comment on column pgtrain.artifacts.owner_id is 'Owner of the run';
comment on column pgtrain.artifacts.name is 'File name';
comment on column pgtrain.artifacts.file_id is 'Stored file';
comment on column pgtrain.artifacts.bytes is 'Size';
comment on column pgtrain.artifacts.sha256 is 'Hash in hexadecimal';
comment on column pgtrain.artifacts.created_at is 'When';

create table pgtrain.evaluations (
    id bigint generated always as identity primary key,
    run_id bigint references pgtrain.training_runs on delete cascade,
    owner_id bigint not null references pgtrain.users on delete cascade,
    model_name text not null,
    dataset_id bigint references pgtrain.datasets on delete set null,
    evaluation_type text not null,
    status pgtrain.task_status not null default 'completed',
    before_metrics jsonb,
    after_metrics jsonb,
    improvement double precision,
    notes text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index evaluations_run_id_idx on pgtrain.evaluations (run_id);
create index evaluations_owner_id_idx on pgtrain.evaluations (owner_id);
create index evaluations_dataset_id_idx on pgtrain.evaluations (dataset_id);
comment on table pgtrain.evaluations is 'Measurements of a model before and after training; a number that was not measured is null';
comment on column pgtrain.evaluations.id is 'Key';
comment on column pgtrain.evaluations.run_id is 'Run';
comment on column pgtrain.evaluations.owner_id is 'Owner';
comment on column pgtrain.evaluations.model_name is 'Model';
comment on column pgtrain.evaluations.dataset_id is 'Dataset measured on';
comment on column pgtrain.evaluations.evaluation_type is 'What was measured: held_out_loss (by the run itself), dataset, dataset_with_questions';
comment on column pgtrain.evaluations.status is 'How it went';
comment on column pgtrain.evaluations.before_metrics is 'Before training, which is of the model that it was made from: loss, perplexity, token_accuracy and others, with samples and tokens that they were measured on; null where there is none';
comment on column pgtrain.evaluations.after_metrics is 'After training, in the same form';
comment on column pgtrain.evaluations.improvement is 'Share by which the loss fell: (before - after) / before';
comment on column pgtrain.evaluations.notes is 'Free text';
comment on column pgtrain.evaluations.created_at is 'When';
comment on column pgtrain.evaluations.updated_at is 'When last changed';

create table pgtrain.evaluation_answers (
    evaluation_id bigint not null references pgtrain.evaluations on delete cascade,
    ordinal bigint not null,
    owner_id bigint not null,
    prompt text not null,
    expected text not null,
    answer text not null,
    end_reason text,
    is_exact boolean not null,
    score double precision not null,
    answer_before text,
    end_reason_before text,
    is_exact_before boolean,
    score_before double precision,
    created_at timestamptz not null default clock_timestamp(),
    primary key (evaluation_id, ordinal)
);
create index evaluation_answers_owner_id_idx on pgtrain.evaluation_answers (owner_id);
comment on table pgtrain.evaluation_answers is 'Answers of a model to the questions of an evaluation';
comment on column pgtrain.evaluation_answers.evaluation_id is 'Evaluation';
comment on column pgtrain.evaluation_answers.ordinal is 'Place of the sample in its dataset';
comment on column pgtrain.evaluation_answers.owner_id is 'Owner of the evaluation';
comment on column pgtrain.evaluation_answers.prompt is 'Question: a text, or messages as JSON';
comment on column pgtrain.evaluation_answers.expected is 'Answer that the sample has';
comment on column pgtrain.evaluation_answers.answer is 'What the model wrote';
comment on column pgtrain.evaluation_answers.end_reason is 'Why it ended there: end_of_text, stop, max_tokens or context_full';
comment on column pgtrain.evaluation_answers.is_exact is 'Whether both are the same but for space around and within';
comment on column pgtrain.evaluation_answers.score is 'Agreement of the words, from 0 to 1: F1 of both as bags of words';
comment on column pgtrain.evaluation_answers.answer_before is 'What the model wrote that it was made from; null where it was not asked';
comment on column pgtrain.evaluation_answers.end_reason_before is 'Why that ended there';
comment on column pgtrain.evaluation_answers.is_exact_before is 'As is_exact, of answer_before';
comment on column pgtrain.evaluation_answers.score_before is 'As score, of answer_before';
comment on column pgtrain.evaluation_answers.created_at is 'When';

create table pgtrain.model_profiles (
    id bigint generated always as identity primary key,
    owner_id bigint not null references pgtrain.users on delete cascade,
    model_name text not null,
    training_run_id bigint references pgtrain.training_runs on delete cascade,
    avatar_path text,
    avatar_url text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (owner_id, model_name)
);
create index model_profiles_training_run_id_idx on pgtrain.model_profiles (training_run_id);
comment on table pgtrain.model_profiles is 'How a trained model is shown';
comment on column pgtrain.model_profiles.id is 'Key';
comment on column pgtrain.model_profiles.owner_id is 'Owner';
comment on column pgtrain.model_profiles.model_name is 'Model, unique for its owner';
comment on column pgtrain.model_profiles.training_run_id is 'Run that made it';
comment on column pgtrain.model_profiles.avatar_path is 'Picture as a file';
comment on column pgtrain.model_profiles.avatar_url is 'Picture as an address';
comment on column pgtrain.model_profiles.created_at is 'When made';
comment on column pgtrain.model_profiles.updated_at is 'When last changed';

select pgtrain_private.protect_table(t, 'owner_id', 'training')
  from unnest(array['trainings', 'training_runs', 'training_run_datasets', 'run_attempts', 'training_tasks', 'training_statuses',
                    'run_metrics', 'run_samples', 'checkpoints', 'artifacts', 'evaluations', 'evaluation_answers', 'model_profiles']::name[]) t;
-- Not run_metrics, whose rows come by the million and are asked for by their run.
create index training_run_datasets_owner_id_idx on pgtrain.training_run_datasets (owner_id);
create index run_attempts_owner_id_idx on pgtrain.run_attempts (owner_id);
create index training_tasks_owner_id_idx on pgtrain.training_tasks (owner_id);
create index training_statuses_owner_id_idx on pgtrain.training_statuses (owner_id);
create index run_samples_owner_id_idx on pgtrain.run_samples (owner_id);
create index checkpoints_owner_id_idx on pgtrain.checkpoints (owner_id);
create index artifacts_owner_id_idx on pgtrain.artifacts (owner_id);
do $$
declare
    t text;
begin
    -- Not the queue: workers would claim runs whose data is still being restored. adopt_queued_runs makes its entries.
    foreach t in array array['pgtrain_private.owner_shares',
                             'pgtrain_private.stored_files', 'pgtrain_private.stored_files_id_seq', 'pgtrain_private.file_chunks'] loop
        perform pg_extension_config_dump(t::regclass, '');
    end loop;
end $$;
-- All columns but the owner, who changes with the run's.
create trigger refuse_change before update of id, training_run_id, status, data, created_at, updated_at on pgtrain.training_statuses
    for each statement execute function pgtrain_private.refuse_change();

-- Only where a limit itself is set: submits move counters and do not meet it.
create function pgtrain_private.forget_limits() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.forget_shares();
    return null;
end $$;
comment on function pgtrain_private.forget_limits() is 'At commit: workers read the concurrency limits of users again';
create trigger forget_limits after insert or update of limit_value on pgtrain.user_usage_limits
    for each statement execute function pgtrain_private.forget_limits();

-- A run can be deleted whatever its state, by the administrator or with its training. What it held is given back, and so is the
-- place of a running one among those that its owner may have at once.
create function pgtrain_private.settle_deleted_run() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.settle_run(old.id);
    return old;
end $$;
comment on function pgtrain_private.settle_deleted_run() is 'Row trigger: charges what a run that is deleted before its end has used and gives back the rest of its holds';
create trigger settle_deleted before delete on pgtrain.training_runs
    for each row when (old.status in ('queued', 'running', 'paused')) execute function pgtrain_private.settle_deleted_run();

create function pgtrain_private.end_deleted_lease() returns trigger
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.lease_ended(old.owner_id, extract(epoch from clock_timestamp() - old.started_at));
    perform pgtrain_private.wake_workers();
    return null;
end $$;
comment on function pgtrain_private.end_deleted_lease() is 'Row trigger: the owner of a running run that is deleted runs one run less, and its worker looks at once';
create trigger end_deleted_lease after delete on pgtrain.run_attempts
    for each row when (old.ended_at is null) execute function pgtrain_private.end_deleted_lease();
