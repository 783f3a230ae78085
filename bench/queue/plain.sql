-- The peer of our queue: what everybody writes first, a table with SKIP LOCKED. No rights, no limits, no lease, no history.
drop table if exists runs;
create table runs (
    id bigint generated always as identity primary key,
    user_id integer not null,
    state text not null default 'queued',
    priority integer not null default 0,
    payload jsonb not null,
    worker text,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz
);
create index runs_queue_idx on runs (priority desc, id) where state = 'queued';
