-- Training, what users call: trainings and runs, and what can be done with a run. What workers do is in attempts.sql.
-- Every function checks rights itself; nobody writes the tables directly.
-- Lock order everywhere: queue row, attempt row, run row, usage limits.

-- ---------------------------------------------------------------- configuration and plans (C)

create or replace function pgtrain_private.check_run_config(config jsonb) returns void
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_check_run_config';
comment on function pgtrain_private.check_run_config(jsonb) is 'Refuses unknown keys and values of a configuration by name';

create or replace function pgtrain_private.compute_plan(config jsonb, selector text, data_bytes bigint, base_config text) returns jsonb
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_compute_plan';
comment on function pgtrain_private.compute_plan(jsonb, text, bigint, text) is 'Starts the trainer to compute the memory plan of a frozen configuration, with the configuration of the base model where it has one';

create or replace function pgtrain_private.wake_for_run(owner_id bigint, rank smallint, is_requeued boolean) returns void
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_wake_for_run';
comment on function pgtrain_private.wake_for_run(bigint, smallint, boolean) is 'At commit: marks that the owner has a queued run of this rank and wakes the idle workers';

create or replace function pgtrain_private.wake_workers() returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_wake_workers';
comment on function pgtrain_private.wake_workers() is 'At commit: wakes the workers of this database, so that they look at what they were asked to do';

create or replace function pgtrain_private.forget_shares() returns void
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_forget_shares';
comment on function pgtrain_private.forget_shares() is 'At commit: weights and concurrency limits of users are read again';

create or replace function pgtrain_private.make_plan(frozen jsonb, config_hash bytea, device_kind pgtrain.device_kind, selector text,
                                                     data_bytes bigint, base_config text default null) returns pgtrain_private.plan_cache
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    computed jsonb := pgtrain_private.compute_plan(frozen, selector, data_bytes, base_config);
    made pgtrain_private.plan_cache;
begin
    made := row(make_plan.config_hash, make_plan.device_kind, make_plan.data_bytes, (computed->>'peak_bytes')::bigint,
                (computed->>'parameters')::bigint, (computed->>'device_memory_bytes')::bigint, computed, now());
    -- Never waits for another user's transaction that has kept the same plan and stays open: a later submit keeps it then.
    if pg_try_advisory_xact_lock('pgtrain_private.plan_cache'::regclass::oid::integer,
                                 hashtext(device_kind || data_bytes::text || config_hash::text)) then
        insert into pgtrain_private.plan_cache values (made.*) on conflict do nothing;
    end if;
    return made;
end $$;
comment on function pgtrain_private.make_plan(jsonb, bytea, pgtrain.device_kind, text, bigint, text) is
    'Has the trainer compute the memory plan of a configuration on a kind of device, and keeps it';

-- ---------------------------------------------------------------- trainings

create or replace function pgtrain.create_training(name text, config jsonb default '{}', description text default null,
                                                   trigger_word text default null, base_model jsonb default null) returns bigint
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    me bigint := pgtrain_private.require_user();
    made bigint;
begin
    perform pgtrain_private.require_writable('create_training');
    perform pgtrain_private.require_permission('create', 'training');
    -- Checked now, so that the mistake shows where it is made; each run freezes it again.
    if create_training.name is null or length(create_training.name) not between 1 and 100 then
        raise exception using errcode = '22023', message = 'a training needs a name of 1 to 100 characters';
    elsif length(create_training.trigger_word) not between 1 and 100 then
        raise exception using errcode = '22023', message = 'trigger_word has 1 to 100 characters';
    elsif jsonb_typeof(create_training.config) <> 'object' then
        raise exception using errcode = '22023', message = format('config must be a JSON object, not %s', jsonb_typeof(create_training.config));
    elsif jsonb_typeof(create_training.base_model) <> 'object' then
        raise exception using errcode = '22023', message = format('base_model must be a JSON object, not %s', jsonb_typeof(create_training.base_model));
    end if;
    perform pgtrain_private.check_run_config(coalesce(create_training.config, '{}'));
    insert into pgtrain.trainings (owner_id, name, config, description, trigger_word, base_model)
    values (me, create_training.name, coalesce(create_training.config, '{}'), create_training.description,
            create_training.trigger_word, create_training.base_model)
    on conflict (owner_id, name) do nothing
    returning id into made;
    if made is null then
        raise exception using errcode = '23505', message = format('you already have a training named "%s"', create_training.name),
            hint = 'Choose another name, or submit another run of that training.';
    end if;
    perform pgtrain_private.write_audit('create_training', null, jsonb_build_object('training_id', made));
    return made;
end $$;
comment on function pgtrain.create_training(text, jsonb, text, text, jsonb) is 'Makes a training: a named configuration that runs can be submitted from. Returns its id';

-- ---------------------------------------------------------------- submit

-- In C, with the statements they run: src/pg/functions/submit.cpp.
create or replace function pgtrain.plan_run(training_id bigint default null, dataset_id bigint default null, config jsonb default '{}',
                                            dataset_ids bigint[] default null, validation_dataset_id bigint default null) returns jsonb
    language c volatile security definer set search_path = pg_catalog, pg_temp as 'MODULE_PATHNAME', 'pgtrain_plan_run';
comment on function pgtrain.plan_run(bigint, bigint, jsonb, bigint[], bigint) is 'What submit_run would freeze and need: memory by part, steps, tokens, time and share of the plan''s price with where they come from, the full configuration; holds and writes nothing of the user''s';

create or replace function pgtrain.submit_run(training_id bigint default null, dataset_id bigint default null, config jsonb default '{}',
    name text default null, priority integer default 0, idempotency_key text default null, dataset_ids bigint[] default null,
    start_at timestamptz default null, max_attempts integer default null, publish_as text default null,
    description text default null, image_group_id bigint default null, metadata jsonb default '{}',
    validation_dataset_id bigint default null) returns bigint
    language c volatile security definer set search_path = pg_catalog, pg_temp as 'MODULE_PATHNAME', 'pgtrain_submit_run';
comment on function pgtrain.submit_run(bigint, bigint, jsonb, text, integer, text, bigint[], timestamptz, integer, text, text, bigint, jsonb, bigint) is
    'Puts a run into the queue with its configuration and data frozen and its usage held, all in your transaction. Evaluated on the whole validation dataset, else on a part of its samples that is held out. Returns its id';

-- ---------------------------------------------------------------- what can be done with a run

create or replace function pgtrain_private.find_run(run_id bigint, action text) returns pgtrain.training_runs
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
begin
    select * into run from pgtrain.training_runs r where r.id = find_run.run_id;
    -- One answer for both cases: that a run of somebody else exists is not told.
    if not found or not (pgtrain_private.may_access(run.owner_id, action, 'training') or pgtrain_private.is_server_administrator()) then
        raise exception using errcode = 'PT404', message = format('run %s does not exist or you may not %s it', coalesce(find_run.run_id::text, 'null'), action);
    end if;
    return run;
end $$;
comment on function pgtrain_private.find_run(bigint, text) is 'The run, if the caller may do that to it; else PT404';

create or replace function pgtrain_private.refuse_state(run_id bigint, what text) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    now_is pgtrain.run_status;
begin
    select r.status into now_is from pgtrain.training_runs r where r.id = refuse_state.run_id;
    raise exception using errcode = 'PT409', message = format('run %s cannot be %s: it is %s', refuse_state.run_id, what, now_is),
        hint = case when now_is in ('queued', 'running') then 'It can be paused (pgtrain.pause_run) or cancelled (pgtrain.cancel_run).'
                    when now_is = 'paused' then 'It can be resumed (pgtrain.resume_run) or cancelled (pgtrain.cancel_run).'
                    when now_is = 'succeeded' then 'It has its result; submit a new run for another one.'
                    else 'It can be retried (pgtrain.retry_run).' end;
end $$;
comment on function pgtrain_private.refuse_state(bigint, text) is 'Raises PT409 naming the state the run is in';

-- A queued run without an entry came from a dump and was not adopted yet. Its lock keeps it from being adopted meanwhile.
create or replace function pgtrain_private.lock_unadopted(run_id bigint) returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform from pgtrain.training_runs r
      where r.id = lock_unadopted.run_id and r.status = 'queued' and not exists (select from pgtrain_private.run_queue q where q.run_id = r.id)
        for update;
    -- Looked at again under the lock, because what was waited for may have made the entry.
    return found and not exists (select from pgtrain_private.run_queue q where q.run_id = lock_unadopted.run_id);
end $$;
comment on function pgtrain_private.lock_unadopted(bigint) is 'Locks a queued run that has no queue entry; false when it is none';

create or replace function pgtrain_private.ask_attempt(run_id bigint, wanted pgtrain_private.stop_request) returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    -- A cancel is never weakened to a pause.
    update pgtrain.run_attempts a
       set requested = case when a.requested = 'cancel' then a.requested else wanted end
     where a.run_id = ask_attempt.run_id and a.ended_at is null;
    if found then
        perform pgtrain_private.wake_workers();
        return true;
    end if;
    return false;
end $$;
comment on function pgtrain_private.ask_attempt(bigint, pgtrain_private.stop_request) is 'Asks the worker of a running run to stop; false when none runs it';

create or replace function pgtrain.cancel_run(run_id bigint) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
    is_done boolean;
begin
    perform pgtrain_private.require_writable('cancel_run');
    run := pgtrain_private.find_run(cancel_run.run_id, 'update');
    -- Between two looks the run may move (be claimed, be queued again), so both places are tried more than once.
    for i in 1..10 loop
        delete from pgtrain_private.run_queue q where q.run_id = cancel_run.run_id;
        is_done := found or exists (select from pgtrain.training_runs r where r.id = cancel_run.run_id and r.status = 'paused' for update)
            or pgtrain_private.lock_unadopted(cancel_run.run_id);
        if is_done then
            perform pgtrain_private.end_waiting_run(cancel_run.run_id, 'cancelled_by_user', null);
            exit;
        end if;
        is_done := pgtrain_private.ask_attempt(cancel_run.run_id, 'cancel');
        exit when is_done;
        if exists (select from pgtrain.training_runs r where r.id = cancel_run.run_id and r.status in ('succeeded', 'failed', 'cancelled')) then
            perform pgtrain_private.refuse_state(cancel_run.run_id, 'cancelled');
        end if;
    end loop;
    if not is_done then
        perform pgtrain_private.refuse_state(cancel_run.run_id, 'cancelled');
    end if;
    perform pgtrain_private.write_audit('cancel_run', null, jsonb_build_object('run_id', cancel_run.run_id));
end $$;
comment on function pgtrain.cancel_run(bigint) is 'Cancels a run: at once when it waits, within two seconds when it runs (then its status changes when the trainer has stopped)';

create or replace function pgtrain.pause_run(run_id bigint) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
    is_done boolean;
begin
    perform pgtrain_private.require_writable('pause_run');
    run := pgtrain_private.find_run(pause_run.run_id, 'update');
    for i in 1..10 loop
        delete from pgtrain_private.run_queue q where q.run_id = pause_run.run_id;
        is_done := found or pgtrain_private.lock_unadopted(pause_run.run_id);
        -- One that waits for a limit waits for its user from now on.
        delete from pgtrain_private.limited_runs l where l.run_id = pause_run.run_id;
        is_done := is_done or found;
        if is_done then
            update pgtrain.training_runs r set status = 'paused', end_reason = 'paused_by_user', available_at = null
             where r.id = pause_run.run_id and r.status in ('queued', 'paused');
            perform pgtrain_private.add_event(pause_run.run_id, run.owner_id, 'paused', null);
            exit;
        end if;
        is_done := pgtrain_private.ask_attempt(pause_run.run_id, 'pause');
        exit when is_done;
        if exists (select from pgtrain.training_runs r where r.id = pause_run.run_id and r.status not in ('queued', 'running')) then
            perform pgtrain_private.refuse_state(pause_run.run_id, 'paused');
        end if;
    end loop;
    if not is_done then
        perform pgtrain_private.refuse_state(pause_run.run_id, 'paused');
    end if;
    perform pgtrain_private.write_audit('pause_run', null, jsonb_build_object('run_id', pause_run.run_id));
end $$;
comment on function pgtrain.pause_run(bigint) is 'Pauses a run; a running one writes a checkpoint first and later continues exactly';

create or replace function pgtrain_private.enqueue_run(run_id bigint, available_at timestamptz) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
begin
    -- The one way back into the queue; the caller has just set the status to queued. The old place in the order is kept.
    select * into strict run from pgtrain.training_runs r where r.id = enqueue_run.run_id and r.status = 'queued';
    insert into pgtrain_private.run_queue (run_id, owner_id, rank, memory_bytes, available_at)
    values (run.id, run.owner_id, -run.priority, run.peak_bytes_planned, enqueue_run.available_at);
    if enqueue_run.available_at is null then
        perform pgtrain_private.wake_for_run(run.owner_id, (-run.priority)::smallint, true);
    end if;
end $$;
comment on function pgtrain_private.enqueue_run(bigint, timestamptz) is 'Puts a run that has just become queued back into the queue';

create or replace function pgtrain_private.requeue_paused(run pgtrain.training_runs, reason pgtrain.end_reason default null) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    paused pgtrain.training_runs;
begin
    update pgtrain.training_runs r set status = 'queued', end_reason = null
     where r.id = run.id and r.status = 'paused' and (reason is null or r.end_reason = reason) returning * into paused;
    if not found then
        perform pgtrain_private.refuse_state(run.id, 'resumed');
    end if;
    perform pgtrain_private.hold_again(paused);
    perform pgtrain_private.enqueue_run(paused.id, null);
    perform pgtrain_private.add_event(paused.id, paused.owner_id, 'resumed', null);
end $$;
comment on function pgtrain_private.requeue_paused(pgtrain.training_runs, pgtrain.end_reason) is 'paused -> queued, when it was paused for that reason (null: any) and there is room within its limits';

create or replace function pgtrain.resume_run(run_id bigint) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
begin
    perform pgtrain_private.require_writable('resume_run');
    run := pgtrain_private.find_run(resume_run.run_id, 'update');
    perform pgtrain_private.requeue_paused(run);
    perform pgtrain_private.write_audit('resume_run', null, jsonb_build_object('run_id', resume_run.run_id));
end $$;
comment on function pgtrain.resume_run(bigint) is 'Queues a paused run again; it continues from its checkpoint exactly';

create or replace function pgtrain.retry_run(run_id bigint) returns void
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
begin
    perform pgtrain_private.require_writable('retry_run');
    run := pgtrain_private.find_run(retry_run.run_id, 'update');
    if exists (select from pgtrain.training_run_datasets d where d.training_run_id = run.id and d.dataset_id is null) then
        raise exception using errcode = 'PT409', message = format('run %s cannot be retried: a dataset of it was deleted', run.id),
            hint = 'Submit a new run with a dataset that exists.';
    end if;
    update pgtrain.training_runs r
       set status = 'queued', end_reason = null, error_message = null, error_detail = null, error_hint = null, failed_attempts = 0,
           available_at = null, ended_at = null
     where r.id = retry_run.run_id and r.status in ('failed', 'cancelled');
    if not found then
        perform pgtrain_private.refuse_state(retry_run.run_id, 'retried');
    end if;
    -- What earlier attempts have used stays charged, the job too; the rest is held again.
    perform pgtrain_private.hold_usage(run.owner_id, 'training_jobs', 1, run.id)
       from pgtrain_private.run_usage(run.id, 'training_jobs') u where u.charged = 0;
    perform pgtrain_private.hold_usage(run.owner_id, 'training_tokens', greatest(run.planned_tokens - run.tokens, 0), run.id);
    perform pgtrain_private.enqueue_run(retry_run.run_id, null);
    perform pgtrain_private.add_event(retry_run.run_id, run.owner_id, 'retried', null);
    perform pgtrain_private.write_audit('retry_run', null, jsonb_build_object('run_id', retry_run.run_id));
end $$;
comment on function pgtrain.retry_run(bigint) is 'Queues a failed or cancelled run again, from its last checkpoint if it has one; holds usage anew';

create or replace function pgtrain_private.wait_until_ended(run_id bigint, timeout_ms bigint) returns boolean
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_wait_until_ended';
comment on function pgtrain_private.wait_until_ended(bigint, bigint) is 'Waits until a run is in none of queued and running; looks with a fresh snapshot each time';

create or replace function pgtrain.wait_for_run(run_id bigint, timeout interval default null) returns pgtrain.run_status
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
begin
    run := pgtrain_private.find_run(wait_for_run.run_id, 'read');
    -- Null waits without end; below zero has passed already.
    perform pgtrain_private.wait_until_ended(run.id, case when timeout is null then -1 else greatest((extract(epoch from timeout) * 1000)::bigint, 0) end);
    return (select r.status from pgtrain.training_runs r where r.id = wait_for_run.run_id);
end $$;
comment on function pgtrain.wait_for_run(bigint, interval) is 'Waits until a run has ended or paused, at most for the timeout, and returns its status; can be interrupted';

create or replace function pgtrain.why_waiting(run_id bigint) returns text
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
    ahead bigint;
    running bigint;
    allowed bigint;
    reasons text[] := '{}';
begin
    run := pgtrain_private.find_run(why_waiting.run_id, 'read');
    if run.status = 'paused' then
        return case run.end_reason when 'limit_reached' then
                   format('paused: the limit of %s is reached; it goes on when the counter starts again or the limit is raised (pgtrain.usage())',
                          coalesce(pgtrain_private.limiting_resource(run, 0.05)::text, 'a resource'))
               else format('paused: pgtrain.resume_run(%s) queues it again', run.id) end;
    elsif run.status <> 'queued' then
        return 'not waiting: ' || run.status || coalesce(' (' || run.end_reason || ')', '');
    end if;
    if run.available_at > clock_timestamp() then
        reasons := reasons || format('not before %s (%s)', run.available_at,
            case when run.failed_attempts > 0 then format('backoff after %s failed attempts of at most %s', run.failed_attempts, run.max_attempts)
                 else 'its owner asked for that' end);
    end if;
    reasons := reasons || pgtrain_private.workers_note();
    if not exists (select from pgtrain_private.run_queue q where q.run_id = run.id) then
        reasons := reasons || 'it came from a dump and is put into the queue when all of its data is there'::text;
    end if;
    select count(*) into running from pgtrain.run_attempts a where a.owner_id = run.owner_id and a.ended_at is null;
    allowed := pgtrain_private.concurrency_limit(run.owner_id);
    if allowed >= 0 and running >= allowed then
        reasons := reasons || format('its owner has %s runs running and may have %s at once', running, allowed);
    end if;
    if not exists (select from pgtrain.devices d where d.status <> 'gone' and d.memory_bytes >= run.peak_bytes_planned)
       and exists (select from pgtrain.devices d where d.status <> 'gone') then
        reasons := reasons || format('no device has the %s it needs', pg_size_pretty(run.peak_bytes_planned));
    elsif not exists (select from pgtrain.devices d where d.status <> 'gone' and d.instance_id <> all (pgtrain_private.busy_devices()))
          and exists (select from pgtrain.devices d where d.status <> 'gone') then
        reasons := reasons || 'every device is busy'::text;
    end if;
    select count(*) into ahead from pgtrain_private.run_queue q join pgtrain_private.run_queue mine on mine.run_id = run.id
     where q.owner_id = run.owner_id and q.available_at is null and (q.rank, q.run_id) < (mine.rank, mine.run_id);
    if ahead > 0 then
        reasons := reasons || format('%s runs of the same owner are ahead', ahead);
    end if;
    reasons := array_remove(reasons, null);
    return case when cardinality(reasons) = 0 then 'a worker will claim it in a moment' else array_to_string(reasons, '; ') end;
end $$;
comment on function pgtrain.why_waiting(bigint) is 'Why a run has not started, in words: limit, busy devices, backoff, runs ahead, no workers ...';

-- ---------------------------------------------------------------- results

create or replace function pgtrain_private.read_stored_file(file_id bigint) returns bytea
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_read_stored_file';
comment on function pgtrain_private.read_stored_file(bigint) is 'Bytes of a stored file, checked against its hash';

create or replace function pgtrain_private.read_stored_part(file_id bigint, start bigint, bytes integer) returns bytea
    language c volatile strict as 'MODULE_PATHNAME', 'pgtrain_read_stored_part';
comment on function pgtrain_private.read_stored_part(bigint, bigint, integer) is 'So many bytes of a stored file from a place counted from 0, fewer at its end';

create or replace function pgtrain_private.read_file(file_id bigint, start bigint, bytes integer) returns bytea
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if start is null or bytes is null then
        raise exception using errcode = '22004', message = 'first_byte and bytes may not be null';
    elsif start < 0 or bytes not between 1 and 536870912 then
        raise exception using errcode = '22023', message = format('%s bytes from %s cannot be read', bytes, start),
            hint = 'first_byte counts from 0, and bytes is 1 to 536870912.';
    end if;
    return pgtrain_private.read_stored_part(file_id, start, bytes);
end $$;
comment on function pgtrain_private.read_file(bigint, bigint, integer) is 'A part of a stored file; refuses what is no part';

create or replace function pgtrain_private.find_artifact(run_id bigint, name text) returns bigint
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
    found_file bigint;
begin
    run := pgtrain_private.find_run(find_artifact.run_id, 'read');
    select a.file_id into found_file from pgtrain.artifacts a where a.run_id = run.id and a.name = find_artifact.name;
    if not found then
        raise exception using errcode = 'PT404', message = format('run %s has no artifact "%s"', run.id, find_artifact.name),
            detail = coalesce('It has: ' || (select string_agg(a.name, ', ' order by a.name) from pgtrain.artifacts a where a.run_id = run.id) || '.',
                              format('It has none; its status is %s.', run.status));
    end if;
    return found_file;
end $$;
comment on function pgtrain_private.find_artifact(bigint, text) is 'The stored file of an artifact of a run that the caller may read';

create or replace function pgtrain.export_artifact(run_id bigint, name text default 'model.safetensors') returns bytea
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    return pgtrain_private.read_stored_file(pgtrain_private.find_artifact(run_id, name));
end $$;
comment on function pgtrain.export_artifact(bigint, text) is 'Bytes of a file that a run produced (model.safetensors, config.json, tokenizer.json), checked against its hash';

create or replace function pgtrain.export_artifact(run_id bigint, name text, first_byte bigint, bytes integer default 67108864) returns bytea
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    return pgtrain_private.read_file(pgtrain_private.find_artifact(run_id, name), first_byte, bytes);
end $$;
comment on function pgtrain.export_artifact(bigint, text, bigint, integer) is
    'A part of such a file, from a place counted from 0; empty behind its end. For files of any size: a value holds 1 GB at most. artifacts.sha256 is of the whole';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
