-- The transitions that workers make, carried out by hand: claim, record, checkpoint, requeue with backoff, publish, and what is refused.
-- The runs belong to users of a time to come, so that the real workers leave them alone.
\set VERBOSITY terse
set client_min_messages = warning;
set pgtrain.password_memory = 8;
set pgtrain.password_passes = 1;
begin;
select pgtrain.register_user('attempt_ann', 'attempt_ann@example.org', 'correct horse battery') as ann \gset
select pgtrain.set_usage_limit(:ann, 'training_jobs', 5);
select pgtrain.authenticate(session_token) = :ann as is_ann from pgtrain.login('attempt_ann', 'correct horse battery');
select pgtrain.create_dataset('attempt_words') as data \gset
select pgtrain.append_samples(:data, array['one', 'two', 'three']);
select pgtrain.submit_run(dataset_id => :data, config => '{"size": "nano", "steps": 10}', max_attempts => 2) as run \gset
select held_value from pgtrain.user_usage_limits where user_id = :ann and resource_type = 'training_jobs';

-- The claim of this very transaction sees its own run: nothing is committed, so no worker does.
select pgtrain_private.wake_for_run(:ann, 0::smallint, false);
delete from pgtrain_private.run_queue where run_id = :run;
update pgtrain.training_runs set status = 'running', attempt = 1, failed_attempts = 1, started_at = now() where id = :run;
insert into pgtrain.run_attempts (run_id, attempt, owner_id, worker_pid, incarnation, expires_at)
values (:run, 1, :ann, pg_backend_pid(), coalesce(pgtrain_private.server_incarnation(), 0), now() + interval '1 minute');
select threads, checkpoint_step, config->>'steps' as steps from pgtrain_private.load_job(:run, 1, 3, null);
select threads from pgtrain_private.load_job(:run, 1, 8, null);
select pgtrain_private.record_attempt(:run, 1, 1000,
    '{"step": 4, "loss": 2.5, "learning_rate": 0.1, "tokens": 4096, "tokens_per_second": 10, "peak_bytes": 77, "seconds_more": 1.5}',
    '[{"step": 4, "loss": 2.5}, {"step": 4, "extra": {"a": 1}}, {"step": 4, "extra": {"b": 2}, "held_out_loss": 3}]',
    '[{"message_id": "1/1", "task": "train", "state": "started"}]', '[{"step": 4, "prompt": "p", "content": "c"}]',
    '[{"status": "note", "data": {"x": 1}}]', '{"before": {"loss": 5, "token_accuracy": 0.125, "tokens": 900, "samples": 30}, "after": null}');
select step, loss, tokens, peak_bytes, seconds, loss_before from pgtrain.training_runs where id = :run;
select step, loss, held_out_loss, extra from pgtrain.run_metrics where run_id = :run;
select task, status, message_id from pgtrain.training_tasks where training_run_id = :run;
select step, prompt, content from pgtrain.run_samples where run_id = :run;
-- The first step makes it a job that counts.
select used_value, held_value from pgtrain.user_usage_limits where user_id = :ann and resource_type = 'training_jobs';

-- Asked to pause, then to cancel: the cancel stays.
select pgtrain_private.ask_attempt(:run, 'pause'), pgtrain_private.ask_attempt(:run, 'cancel'), pgtrain_private.ask_attempt(:run, 'pause');
select requested from pgtrain.run_attempts where run_id = :run;
update pgtrain.run_attempts set requested = 'none' where run_id = :run;

-- Failed once: queued again with a delay, the old attempt can write no more.
select pgtrain_private.requeue_run(:run, 1, 'trainer_crashed', true, 'signal 11 (SIGSEGV)', 'it crashed');
select status, error_message, failed_attempts, available_at > now() as is_delayed from pgtrain.training_runs where id = :run;
select end_reason, exit_status, ended_at is not null as has_ended from pgtrain.run_attempts where run_id = :run;
select available_at is not null as waits from pgtrain_private.run_queue where run_id = :run;
select status from pgtrain.training_tasks where training_run_id = :run;
savepoint stale;
\set VERBOSITY sqlstate
select pgtrain_private.fence_attempt(:run, 1);
\set VERBOSITY terse
rollback to stale;

-- Failed for the second time of two: given up. An attempt that cannot be freed, here of a run that is at another, keeps none from it.
insert into pgtrain.run_attempts (run_id, attempt, owner_id, worker_pid, incarnation, expires_at) values (:run, 99, :ann, 0, 0, now() - interval '2 s');
delete from pgtrain_private.run_queue where run_id = :run;
update pgtrain.training_runs set status = 'running', attempt = 2, failed_attempts = 2 where id = :run;
insert into pgtrain.run_attempts (run_id, attempt, owner_id, worker_pid, incarnation, expires_at) values (:run, 2, :ann, 0, 0, now() - interval '1 s');
select pgtrain_private.free_lost_attempts() >= 1 as frees_the_lost;
with gone as (delete from pgtrain.run_attempts where run_id = :run and attempt = 99 and ended_at is null returning 1) select count(*) = 1 as was_kept from gone;
select status, end_reason, error_message, error_detail from pgtrain.training_runs where id = :run;
select used_value, held_value from pgtrain.user_usage_limits where user_id = :ann and resource_type = 'training_jobs';
select used_value, held_value from pgtrain.user_usage_limits where user_id = :ann and resource_type = 'training_tokens';

-- Retried it holds anew, but for the job, which was charged before and may have been the last; published it ends with everything in place.
update pgtrain.user_usage_limits set limit_value = 1 where user_id = :ann and resource_type = 'training_jobs';
select pgtrain.retry_run(:run);
select used_value, held_value from pgtrain.user_usage_limits where user_id = :ann and resource_type = 'training_jobs';
update pgtrain.user_usage_limits set limit_value = 5 where user_id = :ann and resource_type = 'training_jobs';
delete from pgtrain_private.run_queue where run_id = :run;
update pgtrain.training_runs set status = 'running', attempt = 3, failed_attempts = 1 where id = :run;
insert into pgtrain.run_attempts (run_id, attempt, owner_id, worker_pid, incarnation, expires_at) values (:run, 3, :ann, 0, 0, now() + interval '1 minute');
select nextval('pgtrain_private.stored_files_id_seq') as file \gset
select pgtrain_private.add_stored_file(:run, 3, :file, 'rows', 3, encode(sha256('abc'), 'hex'));
insert into pgtrain_private.file_chunks values (:file, 0, 'abc');
select pgtrain_private.publish_run(:run, 3, '{"loss_before": 4, "loss_after": 1, "steps": 10, "tokens": 10240, "tokens_per_second": 5, "peak_bytes": 99}',
    format('[{"name": "model.safetensors", "file_id": %s, "bytes": 3, "sha256": "%s"}]', :file, encode(sha256('abc'), 'hex'))::jsonb);
select status, end_reason, step, loss_before, loss_after, failed_attempts from pgtrain.training_runs where id = :run;
select name, bytes from pgtrain.artifacts where run_id = :run;
select before_metrics, after_metrics, improvement from pgtrain.evaluations where run_id = :run;
select pgtrain.export_artifact(:run);
-- Or in parts, over the border of the pieces that it is stored in, and behind its end.
savepoint parts;
select nextval('pgtrain_private.stored_files_id_seq') as large \gset
insert into pgtrain_private.stored_files (id, run_id, owner_id, storage, bytes, sha256) overriding system value
values (:large, :run, :ann, 'rows', 524291, sha256(convert_to(repeat('a', 524288) || 'bcd', 'UTF8')));
insert into pgtrain_private.file_chunks values (:large, 0, convert_to(repeat('a', 524288), 'UTF8')), (:large, 1, 'bcd');
insert into pgtrain.artifacts (run_id, owner_id, name, file_id, bytes, sha256) values (:run, :ann, 'large.bin', :large, 524291, '');
select n, first_byte, bytes, octet_length(pgtrain.export_artifact(:run, 'large.bin', first_byte, bytes)) as got,
       right(encode(pgtrain.export_artifact(:run, 'large.bin', first_byte, bytes), 'escape'), 5) as end
  from (values (1, 0, 10), (2, 524286, 3), (3, 524287, 3), (4, 524288, 3), (5, 524289, 99), (6, 0, 524291), (7, 524290, 1), (8, 524291, 5), (9, 9000000, 5)) v (n, first_byte, bytes) order by n;
select string_agg(pgtrain.export_artifact(:run, 'large.bin', i, 100000), '' order by i) = pgtrain.export_artifact(:run, 'large.bin') as parts_are_the_whole
  from generate_series(0, 600000, 100000) i;
rollback to savepoint parts;
select pgtrain.export_artifact(:run, 'model.safetensors', -1);
rollback to savepoint parts;
select pgtrain.export_artifact(:run, 'model.safetensors', 0, 0);
rollback to savepoint parts;
select pgtrain.export_artifact(:run, 'model.safetensors', null);
rollback to savepoint parts;
select count(*) as models from pgtrain.models where run_id = :run;
select count(*) as profiles from pgtrain.model_profiles where training_run_id = :run;
select used_value, held_value from pgtrain.user_usage_limits where user_id = :ann and resource_type = 'training_jobs';
select string_agg(status, ' ' order by id) from pgtrain.training_statuses where training_run_id = :run;
select status, progress from pgtrain.training_jobs where id = :run;
select status, progress from pgtrain.external_training_jobs where id = :run;

-- A queued run that came from a dump and is not in the queue yet is paused and cancelled like any other.
select pgtrain.submit_run(dataset_id => :data, config => '{"size": "nano", "steps": 10}') as restored \gset
delete from pgtrain_private.run_queue where run_id = :restored;
select pgtrain.pause_run(:restored);
select status, end_reason from pgtrain.training_runs where id = :restored;
select pgtrain.resume_run(:restored);
select status, end_reason, exists (select from pgtrain_private.run_queue q where q.run_id = r.id) as is_in_queue from pgtrain.training_runs r where id = :restored;
delete from pgtrain_private.run_queue where run_id = :restored;
select pgtrain.cancel_run(:restored);
select status, end_reason from pgtrain.training_runs where id = :restored;

-- Cancelled while the trainer wrote the last checkpoint of a pause: the cancel holds.
select pgtrain.submit_run(dataset_id => :data, config => '{"size": "nano", "steps": 10}') as pausing \gset
delete from pgtrain_private.run_queue where run_id = :pausing;
update pgtrain.training_runs set status = 'running', attempt = 1, failed_attempts = 1 where id = :pausing;
insert into pgtrain.run_attempts (run_id, attempt, owner_id, worker_pid, incarnation, expires_at)
values (:pausing, 1, :ann, pg_backend_pid(), coalesce(pgtrain_private.server_incarnation(), 0), now() + interval '1 minute');
select pgtrain.pause_run(:pausing);
select pgtrain.cancel_run(:pausing);
select pgtrain_private.park_run(:pausing, 1);
select status, end_reason, failed_attempts from pgtrain.training_runs where id = :pausing;
select end_reason from pgtrain.run_attempts where run_id = :pausing;

-- Deleted before its end, a run gives back what it held; what it was charged stays.
select pgtrain.submit_run(dataset_id => :data, config => '{"size": "nano", "steps": 10}') as deleted \gset
select resource_type, used_value, held_value from pgtrain.user_usage_limits where user_id = :ann and resource_type in ('training_jobs', 'training_tokens') order by 1;
update pgtrain.training_runs set tokens = 100, step = 1, status = 'paused' where id = :deleted;
delete from pgtrain.training_runs where id = :deleted;
select resource_type, used_value, held_value from pgtrain.user_usage_limits where user_id = :ann and resource_type in ('training_jobs', 'training_tokens') order by 1;

-- A server that moved to another machine (promoted, restored) offers no device of the former one; back again, it does.
\set listed '[{"instance_id": "%s/gpu", "kind": "cuda", "selector": "cuda:0", "name": "card", "memory_bytes": 5, "detail": ""}]'
create function pg_temp.devices() returns text language sql as $$
    select string_agg(n.name || ' ' || n.status || ': ' || d.instance_id || ' ' || d.status, ', ' order by n.name)
      from pgtrain.compute_nodes n join pgtrain.devices d on d.node_id = n.id where n.name in ('former', 'present')
$$;
select pgtrain_private.sync_devices('former', '', 1, 10, format(:'listed', 'former')::jsonb) is not null as written;
select pgtrain_private.sync_devices('present', '', 1, 10, format(:'listed', 'present')::jsonb) is not null as written;
select pg_temp.devices();
select count(*) from pgtrain.devices d where d.status <> 'gone';
select pgtrain_private.sync_devices('former', '', 1, 10, format(:'listed', 'former')::jsonb) is not null as written;
select pg_temp.devices();

-- A lease restored from a dump of another database of the same server is nobody's, although its process lives.
select pgtrain_private.is_live_process(pid, pgtrain_private.server_incarnation()) as is_live, pid = pg_backend_pid() as is_here
  from pg_stat_activity where pid = pg_backend_pid() or backend_type = 'pgtrain launcher' order by is_here;
rollback;
