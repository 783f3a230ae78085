-- Run limits, functions: how much of its owner's limits a run may still use, the stop of one that has met a limit, and its way back
-- into the queue. Trained tokens are held when a run is submitted; GPU seconds are held ahead in slices while it is on a CUDA device,
-- because nobody knows how long it will take. Callers: attempts, training, the scheduler.

create or replace function pgtrain_private.gpu_seconds_of(run_id bigint) returns bigint
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return (select ceil(sum(extract(epoch from coalesce(a.ended_at, clock_timestamp()) - a.started_at)))::bigint
              from pgtrain.run_attempts a where a.run_id = gpu_seconds_of.run_id and a.device_kind = 'cuda');
end $$;
comment on function pgtrain_private.gpu_seconds_of(bigint) is 'Wall seconds of a run''s attempts on CUDA devices, null when there was none';

-- So much is held ahead of what a run on a CUDA device has used.
create or replace function pgtrain_private.gpu_slice() returns bigint
    language sql immutable
    return 60;
comment on function pgtrain_private.gpu_slice() is 'GPU seconds that are held at a time';

create or replace function pgtrain_private.hold_gpu_slice(run_id bigint, owner_id bigint) returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    room bigint := pgtrain_private.room_in(pgtrain_private.prepare_counter(owner_id, 'gpu_seconds'));
    state record;
begin
    state := pgtrain_private.run_usage(run_id, 'gpu_seconds');
    if state.held > 0 then
        return true;
    end if;
    if room > 0 then
        perform pgtrain_private.hold_usage(owner_id, 'gpu_seconds', least(room, pgtrain_private.gpu_slice()), run_id);
    elsif state.user_id is null then
        -- So that the run has an account, by which the seconds until it stops are charged.
        insert into pgtrain.usage_entries (user_id, resource_type, kind, amount, run_id) values (owner_id, 'gpu_seconds', 'hold', 0, hold_gpu_slice.run_id);
    end if;
    return room > 0;
end $$;
comment on function pgtrain_private.hold_gpu_slice(bigint, bigint) is 'Holds the first GPU seconds of an attempt; false when there are none left';

-- With each checkpoint. A counter that somebody has locked is left for the next one: what is charged was held, so nothing is lost,
-- and a user's open transaction does not keep his run from storing its work.
create or replace function pgtrain_private.charge_run(run_id bigint) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    used record;
    state record;
begin
    for used in
        select r.owner_id, v.resource, v.amount from pgtrain.training_runs r
         cross join lateral (values ('training_tokens'::pgtrain.resource_type, r.tokens), ('gpu_seconds', pgtrain_private.gpu_seconds_of(r.id))) v (resource, amount)
         where r.id = charge_run.run_id and v.amount > 0 order by v.resource
    loop
        perform from pgtrain.user_usage_limits l where l.user_id = used.owner_id and l.resource_type = used.resource for no key update skip locked;
        continue when not found;
        state := pgtrain_private.run_usage(charge_run.run_id, used.resource);
        if used.amount > state.charged then
            perform pgtrain_private.charge_usage(charge_run.run_id, used.resource::text, used.amount - state.charged);
        end if;
    end loop;
end $$;
comment on function pgtrain_private.charge_run(bigint) is 'Charges what a run has used up to its checkpoint, out of what it holds';

-- Called with every batch of a running attempt, so it locks nothing while there is room.
create or replace function pgtrain_private.is_run_limited(run_id bigint, owner_id bigint) returns boolean
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
    state record;
    used bigint;
    ahead bigint;    -- how long before its hold is used up a run asks for more
    wanted bigint;
    room bigint;
begin
    for counter in
        select l.* from pgtrain.user_usage_limits l
         where l.user_id = is_run_limited.owner_id and l.resource_type in ('training_tokens', 'gpu_seconds') and l.limit_value >= 0
         order by l.resource_type
    loop
        if counter.resource_type = 'training_tokens' then
            select r.tokens, r.planned_tokens - r.tokens, 0 into used, wanted, ahead from pgtrain.training_runs r where r.id = is_run_limited.run_id;
        else
            used := pgtrain_private.gpu_seconds_of(run_id);
            wanted := pgtrain_private.gpu_slice();
            ahead := 5;
        end if;
        -- Not on such a device, or nothing left to be trained.
        continue when used is null or wanted <= 0;
        state := pgtrain_private.run_usage(run_id, counter.resource_type);
        continue when state.user_id is null;
        if used + ahead < state.held + state.charged then
            -- The limit was lowered below what is held: its runs go on until what they have used meets it. Others' last uses are
            -- charged as well, a hundredth of the limit at a time.
            continue when pgtrain_private.room_in(counter) >= 0;
            continue when counter.used_value - counter.held_value + used - state.charged < counter.limit_value
                      and used - state.charged < counter.limit_value / 100;
        end if;
        perform pgtrain_private.charge_usage(run_id, counter.resource_type::text, greatest(used - state.charged, 0));
        counter := pgtrain_private.prepare_counter(owner_id, counter.resource_type);
        continue when counter.limit_value = -1;
        if counter.used_value - counter.held_value >= counter.limit_value then
            return true;
        end if;
        state := pgtrain_private.run_usage(run_id, counter.resource_type);
        if used + ahead >= state.held + state.charged then
            room := pgtrain_private.room_in(counter);
            if room > 0 then
                perform pgtrain_private.hold_usage(owner_id, counter.resource_type::text, least(room, wanted), run_id);
            elsif used >= state.held + state.charged then
                return true;
            end if;
        end if;
    end loop;
    return false;
end $$;
comment on function pgtrain_private.is_run_limited(bigint, bigint) is 'Whether a running run has met a limit of its owner; holds more for it while there is room';

-- What was held when it was submitted was an estimate where a run counts in epochs. With less room than is missing it begins with what
-- there is and asks for more when that is used up.
create or replace function pgtrain_private.replan_run(run_id bigint, attempt integer, steps bigint, planned_tokens bigint) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    run pgtrain.training_runs;
    state record;
    room bigint;
    missing bigint;
begin
    perform pgtrain_private.fence_attempt(replan_run.run_id, replan_run.attempt);
    update pgtrain.training_runs r set planned_steps = replan_run.steps, planned_tokens = replan_run.planned_tokens
     where r.id = replan_run.run_id and (r.planned_steps, r.planned_tokens) <> (replan_run.steps, replan_run.planned_tokens) returning * into run;
    if not found then
        return;
    end if;
    state := pgtrain_private.run_usage(run.id, 'training_tokens');
    if state.user_id is null then
        return;
    end if;
    room := pgtrain_private.room_in(pgtrain_private.prepare_counter(state.user_id, 'training_tokens'));
    state := pgtrain_private.run_usage(run.id, 'training_tokens');
    missing := run.planned_tokens - state.held - state.charged;
    if missing < 0 then
        perform pgtrain_private.book_usage(state.user_id, 'training_tokens', run.id, least(-missing, state.held), 0);
    elsif missing > 0 and room > 0 then
        perform pgtrain_private.hold_usage(state.user_id, 'training_tokens', least(missing, room), run.id);
    end if;
end $$;
comment on function pgtrain_private.replan_run(bigint, integer, bigint, bigint) is 'The true steps and tokens of a run whose data is in tokens now: its plan and its hold are made exact';

create or replace function pgtrain_private.limiting_resource(run pgtrain.training_runs, share double precision) returns pgtrain.resource_type
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
    wanted bigint;
    held bigint;
begin
    for counter in
        select l.* from pgtrain.user_usage_limits l
         where l.user_id = run.owner_id and l.resource_type in ('training_tokens', 'gpu_seconds') and l.limit_value >= 0 order by l.resource_type
    loop
        select u.held into held from pgtrain_private.run_usage(run.id, counter.resource_type) u;
        wanted := case when counter.resource_type = 'training_tokens' then run.planned_tokens - run.tokens - coalesce(held, 0)
                       when (select a.device_kind from pgtrain.run_attempts a where a.run_id = run.id order by a.attempt desc limit 1) = 'cuda'
                       then pgtrain_private.gpu_slice() else 0 end;
        if wanted > 0 and pgtrain_private.room_in(counter) < least(wanted, greatest(1, (counter.limit_value * share)::bigint)) then
            return counter.resource_type;
        end if;
    end loop;
    return null;
end $$;
comment on function pgtrain_private.limiting_resource(pgtrain.training_runs, double precision) is
    'Which limit keeps a paused run from going on: there is less room than it needs, and less than that share of the limit';

-- What a run held was given back when it met its limit. It goes on with what there is, and asks for more when that is used up.
create or replace function pgtrain_private.hold_again(run pgtrain.training_runs) returns void
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    counter pgtrain.user_usage_limits;
    missing bigint;
    resource pgtrain.resource_type;
begin
    select run.planned_tokens - run.tokens - u.held into missing from pgtrain_private.run_usage(run.id, 'training_tokens') u;
    if missing > 0 then
        counter := pgtrain_private.prepare_counter(run.owner_id, 'training_tokens');
        perform pgtrain_private.hold_usage(run.owner_id, 'training_tokens', greatest(least(missing, pgtrain_private.room_in(counter)), 1), run.id);
    end if;
    resource := pgtrain_private.limiting_resource(run, 0);
    if resource = 'gpu_seconds' then
        perform pgtrain_private.refuse_usage(pgtrain_private.prepare_counter(run.owner_id, resource), 1);
    end if;
    delete from pgtrain_private.limited_runs l where l.run_id = run.id;
end $$;
comment on function pgtrain_private.hold_again(pgtrain.training_runs) is 'Holds what a paused run still needs, or as much of it as there is; raises PT402 when there is nothing';

create or replace function pgtrain_private.limit_run(run_id bigint) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
    resource pgtrain.resource_type;
begin
    perform pgtrain_private.settle_run(limit_run.run_id);
    select * into strict run from pgtrain.training_runs r where r.id = limit_run.run_id;
    insert into pgtrain_private.limited_runs (run_id, owner_id) values (run.id, run.owner_id) on conflict on constraint limited_runs_pkey do nothing;
    resource := pgtrain_private.limiting_resource(run, 0);
    perform pgtrain_private.write_audit('limit_reached', null, jsonb_build_object('run_id', run.id, 'user_id', run.owner_id, 'resource', resource));
    perform pg_notify('pgtrain_limits', format('%s/%s/reached', run.owner_id, coalesce(resource::text, '')));
    return jsonb_build_object('end_reason', 'limit_reached', 'resource', resource);
end $$;
comment on function pgtrain_private.limit_run(bigint) is 'A run that met its limit: charges it, gives the rest back, has it wait for room; tells listeners of pgtrain_limits (payload: USER/RESOURCE/reached)';

create or replace function pgtrain_private.resume_limited_runs() returns integer
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs;
    blocked bigint[] := '{}';
    resumed integer := 0;
begin
    for run in
        select r.* from pgtrain_private.limited_runs l join pgtrain.training_runs r on r.id = l.run_id
         where r.status = 'paused' and r.end_reason = 'limit_reached' order by l.created_at, l.run_id limit 1000
    loop
        -- A twentieth of the limit, so that runs do not come back for each token that somebody gives back.
        continue when run.owner_id = any (blocked) or pgtrain_private.limiting_resource(run, 0.05) is not null;
        begin
            perform pgtrain_private.requeue_paused(run, 'limit_reached');
            resumed := resumed + 1;
        exception
            when sqlstate 'PT402' or sqlstate 'PT409' then
                null;  -- somebody was faster
            when lock_not_available then
                blocked := blocked || run.owner_id;
        end;
    end loop;
    return resumed;
end $$;
comment on function pgtrain_private.resume_limited_runs() is 'Queues runs again that met a limit, when there is room again; returns how many';

create or replace function pgtrain_private.check_storage(out user_id bigint, out used_value bigint, out stored numeric) returns setof record
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select l.user_id, l.used_value, s.bytes
      from pgtrain.user_usage_limits l
     cross join lateral (select coalesce((select sum(d.size_bytes) from pgtrain.datasets d where d.owner_id = l.user_id), 0)
                              + coalesce((select sum(f.bytes) from pgtrain_private.stored_files f where f.owner_id = l.user_id), 0) as bytes) s
     where l.resource_type = 'storage_bytes' and l.used_value <> s.bytes
$$;
comment on function pgtrain_private.check_storage() is 'Every user whose storage counter is not the size of his datasets and stored files; no row is as it must be';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
