-- Runs in the shape that OpenAI's interface for fine-tuning gives its jobs, events and checkpoints, field for field, so that programs
-- written for that read ours. Names: ftjob-RUN, file-DATASET, file-result-RUN, ftckpt-CHECKPOINT, org-USER. Lists come newest first,
-- a page at a time: pass the last_id of one as `after` of the next.

create or replace function pgtrain_private.unix_time(moment timestamptz) returns bigint
    language sql immutable parallel safe
    return floor(extract(epoch from moment))::bigint;
comment on function pgtrain_private.unix_time(timestamptz) is 'Whole seconds since 1970';

create or replace function pgtrain_private.base_name_of(run pgtrain.training_runs) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return coalesce(nullif(run.config->>'base_model', ''), concat_ws('-', run.config->>'family', run.config->>'size'));
end $$;
comment on function pgtrain_private.base_name_of(pgtrain.training_runs) is 'What a run starts from: its base model, or the shape of a new one';

-- The name of the model that a run makes. With a suffix it tells where it comes from, as OpenAI's names do.
create or replace function pgtrain_private.model_name_of(run pgtrain.training_runs) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return coalesce(run.publish_as,
        case when run.config->>'suffix' <> '' then
            left(format('ft:%s:%s:%s:%s', pgtrain_private.base_name_of(run),
                        (select coalesce(u.username, u.id::text) from pgtrain.users u where u.id = run.owner_id), run.config->>'suffix', run.id), 200) end,
        run.name);
end $$;
comment on function pgtrain_private.model_name_of(pgtrain.training_runs) is 'Name under which the model of a run is published: what was asked for, or one made of base model, owner, suffix and run';

-- What the trainer was left to decide is "auto" until the run begins.
create or replace function pgtrain_private.job_hyperparameters(run pgtrain.training_runs) returns jsonb
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    epochs numeric := (run.config->>'epochs')::numeric;
    seen jsonb;
begin
    select e.data into seen from pgtrain.training_statuses e where e.training_run_id = run.id and e.status = 'data_read' order by e.id desc limit 1;
    return jsonb_build_object(
        'batch_size', (run.config->>'batch_size')::bigint * (run.config->>'gradient_accumulation')::bigint,
        'learning_rate_multiplier', coalesce(run.config->'learning_rate_multiplier', '1'),
        'n_epochs', case when epochs > 0 then to_jsonb(trim_scale(epochs))
                         when (seen->>'tokens')::numeric > 0 then to_jsonb(greatest(round(run.planned_tokens / (seen->>'tokens')::numeric), 1))
                         else to_jsonb('auto'::text) end);
end $$;
comment on function pgtrain_private.job_hyperparameters(pgtrain.training_runs) is 'Hyperparameters of a run by OpenAI''s names';

create or replace function pgtrain_private.job_of(run pgtrain.training_runs) returns jsonb
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
    numbers jsonb := pgtrain_private.job_hyperparameters(run);
    is_dpo boolean := coalesce(run.config->>'objective', '') = 'dpo';
    is_over boolean := run.status in ('succeeded', 'failed', 'cancelled');
    seconds_left double precision;
begin
    if run.status = 'running' and run.tokens_per_second > 0 then
        seconds_left := greatest(run.planned_tokens - run.tokens, 0) / run.tokens_per_second
                        - extract(epoch from clock_timestamp() - coalesce(run.progressed_at, clock_timestamp()));
    elsif run.status = 'running' then
        -- Before its first step by what runs like it took.
        select run.planned_tokens / p.tokens_per_second + p.other_seconds - extract(epoch from clock_timestamp() - a.started_at) into seconds_left
          from pgtrain.run_attempts a
         cross join lateral pgtrain_private.past_speed(run.owner_id, run.config, run.base_model_hash, run.parameters, a.device_name,
                                                       case when a.device_kind = 'cpu' then run.threads end,
                                                       pgtrain_private.validated_bytes((select d.text_bytes from pgtrain.training_run_datasets d where d.training_run_id = run.id and d.is_validation),
                                                                                       run.config, run.planned_steps)) p
         where a.run_id = run.id and a.ended_at is null;
    end if;
    return jsonb_build_object(
        'object', 'fine_tuning.job',
        'id', 'ftjob-' || run.id,
        'model', pgtrain_private.base_name_of(run),
        'created_at', pgtrain_private.unix_time(run.created_at),
        'finished_at', case when is_over then pgtrain_private.unix_time(run.ended_at) end,
        'fine_tuned_model', (select m.name from pgtrain.models m where m.run_id = run.id order by m.id limit 1),
        'organization_id', 'org-' || run.owner_id,
        'status', run.status,
        'training_file', coalesce((select 'file-' || d.dataset_id from pgtrain.training_run_datasets d where d.training_run_id = run.id and not d.is_validation order by d.id limit 1), 'file-deleted'),
        'validation_file', (select 'file-' || coalesce(d.dataset_id::text, 'deleted') from pgtrain.training_run_datasets d where d.training_run_id = run.id and d.is_validation),
        'result_files', case when run.status = 'succeeded' then jsonb_build_array('file-result-' || run.id) else '[]' end,
        'trained_tokens', case when is_over then run.tokens end,
        'error', case when run.status = 'failed' then jsonb_build_object(
            'code', run.end_reason,
            'message', concat_ws(' ', run.error_message || '.', run.error_detail, run.error_hint),
            'param', case run.end_reason
                when 'data_invalid' then case when run.error_message like 'validation data: %' then 'validation_file' else 'training_file' end when 'model_missing' then 'model' when 'config_invalid' then 'hyperparameters' end) end,
        'user_provided_suffix', nullif(run.config->>'suffix', ''),
        'seed', (run.config->>'seed')::bigint,
        'estimated_finish', case when seconds_left is not null then pgtrain_private.unix_time(clock_timestamp() + make_interval(secs => greatest(seconds_left, 0))) end,
        'integrations', '[]'::jsonb,
        'metadata', nullif(run.metadata, '{}'),
        'hyperparameters', numbers,
        'method', case when is_dpo
            then jsonb_build_object('type', 'dpo', 'dpo', jsonb_build_object('hyperparameters', numbers || jsonb_build_object('beta', (run.config->>'dpo_beta')::double precision)))
            else jsonb_build_object('type', 'supervised', 'supervised', jsonb_build_object('hyperparameters', numbers)) end);
end $$;
comment on function pgtrain_private.job_of(pgtrain.training_runs) is 'A run as OpenAI''s fine-tuning job object';

create or replace function pgtrain.fine_tuning_job(run_id bigint) returns jsonb
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return pgtrain_private.job_of(pgtrain_private.find_run(fine_tuning_job.run_id, 'read'));
end $$;
comment on function pgtrain.fine_tuning_job(bigint) is 'A run as the job object of OpenAI''s fine-tuning interface, field for field; status paused is ours';

-- ---------------------------------------------------------------- lists

create or replace function pgtrain_private.as_list(items jsonb[], page_size integer) returns jsonb
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    -- One more than a page was looked for.
    return jsonb_build_object('object', 'list', 'data', to_jsonb(items[1:page_size]),
        'first_id', items[1]->'id', 'last_id', items[least(cardinality(items), page_size)]->'id', 'has_more', cardinality(items) > page_size);
end $$;
comment on function pgtrain_private.as_list(jsonb[], integer) is 'Objects as OpenAI''s list object';

create or replace function pgtrain_private.id_after(after text, prefix text) returns bigint
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if after is null then
        return 9223372036854775807;
    elsif after !~ ('^' || prefix || '\d{1,18}$') then
        raise exception using errcode = '22023', message = format('after is %s', quote_literal(left(after, 100))), hint = format('Give the last_id of a page, such as %s17.', prefix);
    end if;
    return substr(after, length(prefix) + 1)::bigint;
end $$;
comment on function pgtrain_private.id_after(text, text) is 'The number in the id of the last object of a page, highest of all for none';

create or replace function pgtrain_private.check_page(page_size integer) returns integer
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if page_size between 1 and 1000 then
        return page_size;
    end if;
    raise exception using errcode = '22023', message = format('page_size is %s', coalesce(page_size::text, 'null')), hint = 'Give 1 to 1000.';
end $$;
comment on function pgtrain_private.check_page(integer) is 'Refuses a page size that is none';

create or replace function pgtrain.fine_tuning_jobs(after text default null, page_size integer default 20) returns jsonb
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain_private.require_user();
begin
    perform pgtrain_private.require_permission('read', 'training');
    return pgtrain_private.as_list(array(
        select pgtrain_private.job_of(r) from pgtrain.training_runs r
         where r.owner_id = me and r.id < pgtrain_private.id_after(fine_tuning_jobs.after, 'ftjob-')
         order by r.id desc limit pgtrain_private.check_page(fine_tuning_jobs.page_size) + 1), fine_tuning_jobs.page_size);
end $$;
comment on function pgtrain.fine_tuning_jobs(text, integer) is 'The caller''s runs as OpenAI''s list of fine-tuning jobs';

create or replace function pgtrain_private.event_message(status text, data jsonb, run_id bigint) returns text
    language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    return case status
        when 'queued' then format('Created fine-tuning job: ftjob-%s', run_id)
        when 'running' then 'Fine-tuning job started'
        when 'data_read' then format('Read %s samples, %s tokens an epoch; %s samples were cut', data->>'samples', data->>'tokens', data->>'truncated_samples')
        when 'continued' then format('Continued from step %s', data->>'from_step')
        when 'checkpoint' then format('Checkpoint created at step %s', data->>'step')
        when 'checkpoint_lost' then format('A checkpoint cannot be used: %s', data->>'problem')
        when 'queued_again' then format('Queued again: %s', data->>'reason')
        when 'log' then data->>'text'
        when 'paused' then 'The job has been paused'
        when 'resumed' then 'The job has been resumed'
        when 'retried' then 'The job is tried again'
        when 'succeeded' then 'The job has successfully completed'
        when 'failed' then format('The job failed: %s', data->>'end_reason')
        when 'cancelled' then 'The job was cancelled'
        else replace(status, '_', ' ') end;
end $$;
comment on function pgtrain_private.event_message(text, jsonb, bigint) is 'An event of a run in words';

-- Numbers of a step by OpenAI's names. Evaluation is always over the held-out samples that evaluation_batches allows.
create or replace function pgtrain_private.step_metrics(run_id bigint, step bigint) returns jsonb
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    -- Of attempts that made a step twice the later one counts.
    return (select jsonb_build_object('step', m.step, 'train_loss', m.loss, 'train_mean_token_accuracy', m.accuracy, 'valid_loss', m.held_out_loss,
                                      'valid_mean_token_accuracy', m.held_out_accuracy, 'full_valid_loss', m.held_out_loss,
                                      'full_valid_mean_token_accuracy', m.held_out_accuracy)
              from pgtrain.run_metrics m where m.run_id = step_metrics.run_id and m.step = step_metrics.step order by m.attempt desc limit 1);
end $$;
comment on function pgtrain_private.step_metrics(bigint, bigint) is 'Metrics of a step as OpenAI''s checkpoints name them; null where no number was measured';

create or replace function pgtrain.fine_tuning_job_events(run_id bigint, after text default null, page_size integer default 20) returns jsonb
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs := pgtrain_private.find_run(fine_tuning_job_events.run_id, 'read');
    wanted integer := pgtrain_private.check_page(page_size) + 1;
    until timestamptz := 'infinity';
    until_id text := '';
begin
    -- What happened and what was measured are told in one list, by time; of one moment by id.
    if fine_tuning_job_events.after ~ '^ftevent-m\d{1,18}-\d{1,9}$' then
        select m.recorded_at into until from pgtrain.run_metrics m
         where m.run_id = run.id and m.step = split_part(substr(fine_tuning_job_events.after, 10), '-', 1)::bigint
           and m.attempt = split_part(fine_tuning_job_events.after, '-', 3)::integer;
        until_id := fine_tuning_job_events.after;
    elsif fine_tuning_job_events.after is not null then
        select e.created_at into until from pgtrain.training_statuses e
         where e.training_run_id = run.id and e.id = pgtrain_private.id_after(fine_tuning_job_events.after, 'ftevent-');
        until_id := fine_tuning_job_events.after;
    end if;
    return pgtrain_private.as_list(array(
        select jsonb_build_object('object', 'fine_tuning.job.event', 'id', x.id, 'created_at', pgtrain_private.unix_time(x.moment), 'level', x.level,
                                  'message', x.message, 'type', x.type, 'data', x.data)
          from (select u.* from ((select 'ftevent-' || e.id as id, e.created_at as moment, coalesce(e.data, '{}') as data, 'message' as type,
                        case when e.status = 'failed' then 'error' when e.status in ('queued_again', 'checkpoint_lost') or e.data->>'level' = 'warning' then 'warn' else 'info' end as level,
                        pgtrain_private.event_message(e.status, e.data, run.id) as message
                   from pgtrain.training_statuses e
                  where e.training_run_id = run.id and (e.created_at, ('ftevent-' || e.id) collate "C") < (until, until_id collate "C")
                  order by e.created_at desc, ('ftevent-' || e.id) collate "C" desc limit wanted)
                union all
                (select format('ftevent-m%s-%s', m.step, m.attempt), m.recorded_at, pgtrain_private.step_metrics(run.id, m.step) || jsonb_build_object('total_steps', run.planned_steps),
                        'metrics', 'info', format('Step %s/%s: training loss=%s', m.step, run.planned_steps, round(m.loss::numeric, 4))
                           || coalesce(', validation loss=' || round(m.held_out_loss::numeric, 4), '')
                   from pgtrain.run_metrics m
                  where m.run_id = run.id and m.loss is not null
                    and (m.recorded_at, format('ftevent-m%s-%s', m.step, m.attempt) collate "C") < (until, until_id collate "C")
                  order by m.recorded_at desc, format('ftevent-m%s-%s', m.step, m.attempt) collate "C" desc limit wanted)
               ) u order by u.moment desc, u.id collate "C" desc limit wanted) x), page_size);
end $$;
comment on function pgtrain.fine_tuning_job_events(bigint, text, integer) is 'Events of a run, among them the numbers of its steps, as OpenAI''s list of job events';

-- Unambiguous: a run without a model, as one that is under way, or whose model has become another version, has only its number.
create or replace function pgtrain_private.checkpoint_name(run pgtrain.training_runs, step bigint) returns text
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return coalesce((select m.name from pgtrain.models m where m.run_id = run.id order by m.id limit 1), 'ftjob-' || run.id) || ':ckpt-step-' || step;
end $$;
comment on function pgtrain_private.checkpoint_name(pgtrain.training_runs, bigint) is 'How a checkpoint is called: the model''s name, or the job''s where there is no model, and the step; generate and evaluate take it by that name';

create or replace function pgtrain.fine_tuning_job_checkpoints(run_id bigint, after text default null, page_size integer default 10) returns jsonb
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs := pgtrain_private.find_run(fine_tuning_job_checkpoints.run_id, 'read');
begin
    return pgtrain_private.as_list(array(
        select jsonb_build_object('object', 'fine_tuning.job.checkpoint', 'id', 'ftckpt-' || c.id, 'created_at', pgtrain_private.unix_time(c.created_at),
                                  'fine_tuned_model_checkpoint', pgtrain_private.checkpoint_name(run, c.step), 'metrics', coalesce(pgtrain_private.step_metrics(run.id, c.step), jsonb_build_object('step', c.step)),
                                  'fine_tuning_job_id', 'ftjob-' || run.id, 'step_number', c.step)
          from pgtrain.checkpoints c
         where c.run_id = run.id and c.id < pgtrain_private.id_after(fine_tuning_job_checkpoints.after, 'ftckpt-')
         order by c.id desc limit pgtrain_private.check_page(page_size) + 1), page_size);
end $$;
comment on function pgtrain.fine_tuning_job_checkpoints(bigint, text, integer) is 'Checkpoints of a run with their metrics, as OpenAI''s list of job checkpoints';

create or replace function pgtrain.result_csv(run_id bigint) returns text
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    run pgtrain.training_runs := pgtrain_private.find_run(result_csv.run_id, 'read');
begin
    return 'step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy' || E'\n' || coalesce((
        select string_agg(concat_ws(',', m.step, coalesce(m.loss::text, ''), coalesce(m.accuracy::text, ''), coalesce(m.held_out_loss::text, ''),
                                    coalesce(m.held_out_accuracy::text, '')) || E'\n', '' order by m.step)
          from (select distinct on (x.step) x.* from pgtrain.run_metrics x where x.run_id = run.id order by x.step, x.attempt desc) m), '');
end $$;
comment on function pgtrain.result_csv(bigint) is 'Numbers of a run''s steps as the CSV file that OpenAI gives with a job; of a step made twice the later numbers';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
