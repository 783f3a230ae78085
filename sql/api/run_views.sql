-- Views of runs: progress for people and programs, and the shapes that the two older systems had. Row security is that of the tables.

create or replace view pgtrain.run_progress with (security_invoker = true) as
select r.id as run_id, r.owner_id, r.training_id, r.name, r.status, r.end_reason, r.step, r.planned_steps as steps,
       case when r.planned_steps > 0 then r.step::double precision / r.planned_steps end as progress,
       r.loss, r.learning_rate, r.loss_before, r.loss_after, r.tokens, r.planned_tokens, r.tokens_per_second,
       case when r.status = 'running' and r.tokens_per_second > 0
            then make_interval(secs => greatest(r.planned_tokens - r.tokens, 0) / r.tokens_per_second) end as time_left,
       a.device_name as device, a.device_kind, r.parameters, r.peak_bytes_planned, r.peak_bytes, r.attempt, r.max_attempts,
       (select t.task from pgtrain.training_tasks t where t.training_run_id = r.id and t.status = 'started' order by t.id desc limit 1) as task,
       r.error_message, r.error_detail, r.error_hint, r.available_at, r.created_at, r.started_at, r.ended_at, r.progressed_at,
       r.seconds as device_seconds
  from pgtrain.training_runs r
  left join pgtrain.run_attempts a on a.run_id = r.id and a.attempt = r.attempt;
comment on view pgtrain.run_progress is 'Where each run stands: state, step, loss, speed, time left, device, error';

-- A run reads the first so many samples of a dataset, and those never change: so this is known without having been written down.
create or replace view pgtrain.sample_runs with (security_invoker = true) as
select s.dataset_id, s.ordinal, s.content, s.content_hash, r.id as run_id, r.name as run_name, r.status, r.started_at, r.ended_at,
       m.id as model_id, m.name as model_name, d.is_validation
  from pgtrain.dataset_samples s
  join pgtrain.training_run_datasets d on d.dataset_id = s.dataset_id and d.sample_count >= s.ordinal
  join pgtrain.training_runs r on r.id = d.training_run_id
  left join pgtrain.models m on m.run_id = r.id;
comment on view pgtrain.sample_runs is 'Which runs, and which models, saw a sample: to learn from it or held out to be evaluated on, or (is_validation) as one of a validation dataset, which is never learned from. One row for each of both';

create or replace view pgtrain.training_jobs with (security_invoker = true) as
select r.id, r.name, r.description, r.job_type, r.metadata->>'custom_capabilities' as custom_capabilities, r.metadata->>'maker' as maker,
       r.metadata->>'version' as version, coalesce(t.base_model->>'name', 'none') as base_model, coalesce(r.publish_as, r.name) as model_name,
       (select d.dataset_id from pgtrain.training_run_datasets d where d.training_run_id = r.id order by d.id limit 1) as dataset_id,
       upper(r.status::text) as status, r.training_type,
       case when r.planned_steps > 0 then r.step::real / r.planned_steps else 0 end as progress,
       jsonb_build_object('loss', r.loss, 'loss_before', r.loss_before, 'loss_after', r.loss_after, 'tokens_per_second', r.tokens_per_second) as metrics,
       (r.config->>'sample_temperature')::real as temperature, (r.config->>'sample_top_p')::real as top_p,
       (r.config->>'context')::integer as context_length, r.created_at, r.started_at, r.ended_at as completed_at
  from pgtrain.training_runs r left join pgtrain.trainings t on t.id = r.training_id;
comment on view pgtrain.training_jobs is 'Runs in the shape of local training jobs; progress from 0 to 1';

create or replace view pgtrain.external_training_jobs with (security_invoker = true) as
select r.id, r.owner_id as user_id, -- metadata is the user's: what is no number must not make the view fail, also not for those who see everybody's runs
       case when r.metadata->>'minion_id' ~ '^[0-9]{1,18}$' then (r.metadata->>'minion_id')::bigint end as minion_id, r.name as job_name, r.description,
       coalesce(r.metadata->>'provider', 'local') as provider, coalesce(r.publish_as, r.name) as model_name, r.training_type,
       upper(r.status::text) as status, case when r.planned_steps > 0 then 100 * r.step::real / r.planned_steps else 0 end as progress,
       r.config, r.error_message, r.started_at, r.ended_at as completed_at, r.created_at, r.updated_at,
       jsonb_build_object('loss', r.loss, 'loss_before', r.loss_before, 'loss_after', r.loss_after) as metrics, r.xp_gained, r.level_up_info
  from pgtrain.training_runs r;
comment on view pgtrain.external_training_jobs is 'Runs in the shape of training jobs of minions; progress from 0 to 100';

create or replace view pgtrain.training_job_datasets with (security_invoker = true) as
select d.id, d.training_run_id as training_job_id, d.dataset_id from pgtrain.training_run_datasets d;
comment on view pgtrain.training_job_datasets is 'Datasets of runs, as job and dataset';

do $$
begin
    if pgtrain_private.server_incarnation() is null then
        raise warning using message = 'pgtrain is not in shared_preload_libraries, so no run will be executed',
            hint = 'Add it there and restart the server; everything else works.';
    end if;
end $$;

-- Last of the installation: the launcher starts workers for this database once this has committed.
select pgtrain_private.announce_database();
