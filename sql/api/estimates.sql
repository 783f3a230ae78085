-- Estimates: how long a run takes once it is on a device, and what of its owner's plan it uses up. Both are null where nothing can be
-- said, with the reason beside them; no number is made up. Callers: plan_run, fine_tuning_job.

create or replace function pgtrain_private.measure_speed(config jsonb, selector text, data_bytes bigint, base_config text, threads integer) returns jsonb
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_measure_speed';
comment on function pgtrain_private.measure_speed(jsonb, text, bigint, text, integer) is
    'Has the trainer take steps of the shape of a frozen configuration with a few layers: seconds of a step and of an evaluated micro-batch';

create or replace function pgtrain_private.trainer_threads() returns integer
    language c volatile as 'MODULE_PATHNAME', 'pgtrain_trainer_threads';
comment on function pgtrain_private.trainer_threads() is 'Threads that a trainer is given now, null without preloading';

-- What else changes the speed is the base model, the parameters and the device.
create or replace function pgtrain_private.speed_shape(config jsonb) returns jsonb
    language sql immutable
    return (select jsonb_object_agg(k.key, config -> k.key)
              from unnest(array['method', 'objective', 'precision', 'recompute', 'optimizer', 'moments', 'context', 'batch_size', 'gradient_accumulation', 'layers', 'width', 'heads',
                                'vocab_size', 'lora_rank', 'lora_dropout', 'lora_targets', 'modules_to_save', 'use_dora']) k (key));
comment on function pgtrain_private.speed_shape(jsonb) is 'The part of a frozen configuration that the seconds of a step depend on';

create or replace function pgtrain_private.evaluation_count(config jsonb, steps bigint) returns bigint
    language sql immutable
    return 2 + case when (config->>'evaluate_every')::bigint > 0 then (steps - 1) / (config->>'evaluate_every')::bigint else 0 end;
comment on function pgtrain_private.evaluation_count(jsonb, bigint) is 'How often a run of so many steps is evaluated: before, after, and on the way';

create or replace function pgtrain_private.validated_bytes(validation_bytes bigint, config jsonb, steps bigint) returns numeric
    language sql immutable
    return coalesce(validation_bytes, 0)::numeric * pgtrain_private.evaluation_count(config, steps);
comment on function pgtrain_private.validated_bytes(bigint, jsonb, bigint) is 'Bytes of a validation dataset that a run of so many steps goes through in all its evaluations; 0 without one';

-- Only the owner's own: how busy others are is not told. Their order by key bounds what is read. A validation dataset has no bound as
-- held-out samples have: what runs spent beside their steps tells of those that are evaluated on about as much.
create or replace function pgtrain_private.past_speed(owner_id bigint, config jsonb, base_hash bytea, parameters bigint, device_name text, threads integer, validated_bytes numeric,
                                                      out runs bigint, out tokens_per_second double precision, out other_seconds double precision)
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    select count(*), percentile_cont(0.5) within group (order by x.tokens_per_second), percentile_cont(0.5) within group (order by x.other)
      into runs, tokens_per_second, other_seconds
      from (select r.tokens_per_second, greatest(a.wall - r.seconds, 0) as other
              from (select p.* from pgtrain.training_runs p where p.owner_id = past_speed.owner_id order by p.id desc limit 1000) r
             cross join lateral (select extract(epoch from sum(t.ended_at - t.started_at))::double precision as wall, bool_and(t.device_name = past_speed.device_name) as is_there
                                   from pgtrain.run_attempts t where t.run_id = r.id) a
             where r.status = 'succeeded' and r.tokens_per_second > 0 and r.parameters = past_speed.parameters
               and r.base_model_hash is not distinct from past_speed.base_hash and (past_speed.threads is null or r.threads = past_speed.threads)
               and pgtrain_private.speed_shape(r.config) = pgtrain_private.speed_shape(past_speed.config) and a.is_there
               and pgtrain_private.validated_bytes((select d.text_bytes from pgtrain.training_run_datasets d where d.training_run_id = r.id and d.is_validation), r.config, r.planned_steps)
                   between past_speed.validated_bytes * 0.8 and past_speed.validated_bytes * 1.25
             order by r.id desc limit 20) x;
end $$;
comment on function pgtrain_private.past_speed(bigint, jsonb, bytea, bigint, text, integer, numeric) is
    'Medians of a user''s last finished runs of one model and shape on one kind of device: speed of the steps, and seconds spent beside them';

create or replace function pgtrain_private.estimate_seconds(owner_id bigint, config jsonb, base_hash bytea, base_config text, parameters bigint, steps bigint, tokens bigint,
                                                            data_bytes bigint, validation_bytes bigint, device_id bigint, out seconds double precision, out source text)
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    device pgtrain.devices;
    threads integer;
    past record;
    speed jsonb;
    place text;
    batches numeric;
    held_out_bytes numeric := case when validation_bytes > 0 then validation_bytes else (config->>'held_out_fraction')::numeric * data_bytes end;
    longest double precision := nullif((config->>'max_seconds')::double precision, 0);
begin
    select * into device from pgtrain.devices d where d.id = estimate_seconds.device_id;
    if not found then
        source := 'no device is known yet: ' || coalesce(pgtrain_private.workers_note(), 'its worker is just starting');
        return;
    end if;
    threads := case when device.kind = 'cpu' then pgtrain_private.trainer_threads() end;
    place := concat_ws(', ', device.name, case when threads is not null then format('%s threads', threads) end);
    past := pgtrain_private.past_speed(owner_id, config, base_hash, parameters, device.name, threads, pgtrain_private.validated_bytes(validation_bytes, config, steps));
    if past.runs > 0 then
        seconds := least(tokens / past.tokens_per_second, longest) + past.other_seconds;
        source := format('median of your %s last finished runs of this model and shape on %s', past.runs, place);
        return;
    end if;
    begin
        speed := pgtrain_private.measure_speed(config, device.selector, data_bytes, base_config, coalesce(threads, 0));
    exception when sqlstate 'PT422' or sqlstate 'PT500' then
        source := format('you have no finished run of this model and shape on %s, and it could not be tried out: %s', place, sqlerrm);
        return;
    end;
    -- A token has at least a byte, so there are not more held-out batches.
    batches := least(nullif((config->>'evaluation_batches')::numeric, 0), ceil(held_out_bytes / ((config->>'batch_size')::numeric * (config->>'context')::numeric)))
               * pgtrain_private.evaluation_count(config, steps);
    seconds := least(steps * (speed->>'step_seconds')::double precision, longest) + batches::double precision * (speed->>'evaluation_seconds')::double precision;
    source := format('tried out just now on %s%s: steps and evaluations of this shape with %s layers. Reading data and storing results come on top',
                     place, case when device.status = 'running' then ', which is busy' end, speed->>'layers');
end $$;
comment on function pgtrain_private.estimate_seconds(bigint, jsonb, bytea, text, bigint, bigint, bigint, bigint, bigint, bigint) is
    'Seconds that a run will be on a device, by earlier runs or else by a trial, and in words where that comes from; null where nothing can be said';

-- Plans have a price for a period and say how much of each resource is in it.
create or replace function pgtrain_private.estimate_cost(user_id bigint, tokens bigint, gpu_seconds double precision,
                                                         out amount numeric, out currency text, out source text)
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    plan pgtrain.plans;
    part record;
begin
    select p.* into plan from pgtrain.user_subscriptions s join pgtrain.plans p on p.id = s.plan_id
     where s.user_id = estimate_cost.user_id and s.status in ('trialing', 'active', 'past_due');
    if not found then
        source := 'you have no plan';
        return;
    end if;
    currency := plan.currency;
    if plan.price_amount = 0 then
        amount := 0;
        source := format('plan %s is free', plan.name);
        return;
    end if;
    -- The resource of which it uses the largest share, with the price of that resource's period.
    select l.resource_type, u.used / l.limit_value as share, l.reset_period,
           u.used / l.limit_value * pgtrain_private.daily_price(plan)
             * (extract(epoch from case l.reset_period when 'hourly' then interval '1 hour' when 'daily' then interval '1 day' when 'weekly' then interval '7 days'
                                                       when 'monthly' then interval '1 month' when 'yearly' then interval '1 year' end)::double precision / 86400) as price
      into part
      from pgtrain.plan_limits l
      join (values ('training_jobs'::pgtrain.resource_type, 1::double precision), ('training_tokens', tokens), ('gpu_seconds', estimate_cost.gpu_seconds)) u (resource, used)
        on u.resource = l.resource_type
     where l.plan_id = plan.id and l.limit_value > 0 and l.reset_period <> 'never' and u.used > 0
     order by price desc limit 1;
    if not found then
        currency := null;
        source := format('plan %s has one price, however much is trained', plan.name);
        return;
    end if;
    amount := round(part.price::numeric, 2);
    source := format('%s %% of the %s that plan %s allows %s; %s minor units of %s buy a period of the plan, and runs are not charged one by one',
                     round(100 * part.share::numeric, 3), part.resource_type, plan.name, part.reset_period, plan.price_amount, plan.currency);
end $$;
comment on function pgtrain_private.estimate_cost(bigint, bigint, double precision) is
    'What a run uses up of the price of its owner''s plan, in minor units: the share of the scarcest resource that the plan has; null where the plan sets no amount';

create or replace function pgtrain_private.estimate_run(owner_id bigint, config jsonb, base_hash bytea, base_config text, parameters bigint, steps bigint, tokens bigint,
                                                        data_bytes bigint, validation_bytes bigint, device_id bigint, fits boolean) returns jsonb
    language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    duration record;
    cost record;
    is_cuda boolean := exists (select from pgtrain.devices d where d.id = estimate_run.device_id and d.kind = 'cuda');
begin
    if fits then
        duration := pgtrain_private.estimate_seconds(owner_id, config, base_hash, base_config, parameters, steps, tokens, data_bytes, validation_bytes, device_id);
    else
        select null::double precision as seconds, 'no device has the memory' as source into duration;
    end if;
    cost := pgtrain_private.estimate_cost(owner_id, tokens, case when is_cuda then duration.seconds end);
    return jsonb_build_object('estimated_seconds', round(duration.seconds::numeric, 1), 'time_from', duration.source,
                              'estimated_cost', cost.amount, 'currency', cost.currency, 'cost_from', cost.source);
end $$;
comment on function pgtrain_private.estimate_run(bigint, jsonb, bytea, text, bigint, bigint, bigint, bigint, bigint, bigint, boolean) is
    'Time on a device and share of the plan''s price of a run to be, each with where it comes from';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
