-- Compute: what the workers tell about themselves, and the view of the devices.

create or replace function pgtrain_private.server_incarnation() returns bigint
    language c volatile parallel restricted as 'MODULE_PATHNAME', 'pgtrain_server_incarnation';
comment on function pgtrain_private.server_incarnation() is 'Number of this life of the server''s shared memory; null without preloading';

create or replace function pgtrain_private.is_live_process(pid integer, incarnation bigint) returns boolean
    language c volatile strict parallel restricted as 'MODULE_PATHNAME', 'pgtrain_is_live_process';
comment on function pgtrain_private.is_live_process(integer, bigint) is 'Whether a process of that life of the server still works for this database';

create or replace function pgtrain_private.announce_database() returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_announce_database';
comment on function pgtrain_private.announce_database() is 'At commit: tells the launcher that this database has the extension';

create or replace function pgtrain_private.worker_states(out kind text, out database_id oid, out device text, out pid integer, out state text,
                                              out run_id bigint, out note text) returns setof record
    language c volatile parallel restricted as 'MODULE_PATHNAME', 'pgtrain_worker_states';
comment on function pgtrain_private.worker_states() is 'Workers as shared memory knows them; no rows without preloading';

create or replace function pgtrain_private.was_told_to_leave(pid integer, incarnation bigint) returns boolean
    language c volatile strict parallel restricted as 'MODULE_PATHNAME', 'pgtrain_was_told_to_leave';
comment on function pgtrain_private.was_told_to_leave(integer, bigint) is 'Whether a worker of that life of the server had to leave without ending its lease';

create or replace function pgtrain_private.busy_devices() returns text[]
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return (select coalesce(array_agg(w.device), '{}') from pgtrain_private.worker_states() w where w.kind = 'device' and w.run_id is not null);
end $$;
comment on function pgtrain_private.busy_devices() is 'Devices that are training now, for whichever database';

create or replace function pgtrain_private.require_writable(what text) returns void
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_require_writable';
comment on function pgtrain_private.require_writable(text) is 'Raises the server''s read-only error on a standby and in a read-only transaction';

create or replace function pgtrain_private.workers_note() returns text
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- Why no worker may be there, in words; null when all is as it should be.
    if pgtrain_private.server_incarnation() is null then
        return 'pgtrain is not in shared_preload_libraries, so no workers run: add it there and restart the server';
    elsif pg_is_in_recovery() then
        return 'this server is a standby, so no workers run here';
    elsif not exists (select from pgtrain_private.worker_states() w
                       where w.kind = 'device' and w.pid is not null
                         and w.database_id = (select d.oid from pg_database d where d.datname = current_database())) then
        return coalesce((select 'no device worker runs for this database: ' || w.note from pgtrain_private.worker_states() w
                          where w.note <> '' order by w.kind <> 'launcher' limit 1),
                        'no device worker runs for this database: pgtrain.databases is "' || nullif(current_setting('pgtrain.databases'), '*')
                          || '", see whether that names it',
                        'no device worker runs for this database yet: the launcher starts them within seconds; see the server log if not');
    end if;
    return null;
end $$;
comment on function pgtrain_private.workers_note() is 'Why no device worker runs for this database, null when one does';

create or replace view pgtrain.gpus with (security_invoker = true) as
select d.id, d.instance_id, d.kind, d.name, d.selector, d.status, d.memory_bytes, d.detail,
       a.run_id as training_run_id, d.node_id, n.name as node, n.status_text as why_not_more, d.last_seen_at, d.created_at, d.updated_at
  from pgtrain.devices d
  join pgtrain.compute_nodes n on n.id = d.node_id
  left join pgtrain.run_attempts a on a.device_id = d.id and a.ended_at is null;
comment on view pgtrain.gpus is 'Devices that runs are executed on, the run now on each if the caller may see it, and why there are not more';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
