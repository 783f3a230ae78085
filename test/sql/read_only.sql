-- A read-only transaction: whatever only reads works, whatever writes is refused with 25006 and by its own name, and an identity that
-- cannot be ended properly is ended all the same. A function that a later domain adds is found by itself.
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on
set client_min_messages = warning;
select current_user as superuser \gset
create role regress_reader login;
select pgtrain.grant_application('regress_reader');
select pgtrain.register_user('rdo_anna', 'anna@readonly.test', 'a long enough secret') as anna \gset
select pgtrain.grant_role(:anna, 'admin');
select session_token as token, refresh_token as refresh from pgtrain.login('rdo_anna', 'a long enough secret') \gset
select pgtrain.authenticate(:'token', true) = :anna as is_anna;
select pgtrain.create_dataset('read only') as data \gset
select pgtrain.append_samples(:data, array['a']);
select pgtrain.submit_run(dataset_id => :data, config => '{"size": "nano", "steps": 3}', start_at => now() + interval '1 day') as run \gset
select pgtrain.logout();
select session_token as token, refresh_token as refresh from pgtrain.login('rdo_anna', 'a long enough secret') \gset

-- Each function with arguments that it would accept.
create temp table calls (call text);
insert into calls values
    ('store_secret(''s'', ''value'')'), ('delete_secret(''s'')'), ('check_secrets()'), ('list_root_keys()'), ('rotate_secrets()'),
    ('register_user(''rdo_ben'', ''ben@readonly.test'', ''a long enough secret'')'), ('login(''rdo_anna'', ''a long enough secret'')'),
    (format('refresh_session(%L)', :'refresh')), ('change_password(''a long enough secret'', ''another long secret'')'),
    (format('grant_role(%s, ''premium'')', :anna)), (format('revoke_role(%s, ''user'')', :anna)), ('create_role(''rdo_role'')'), ('delete_role(''rdo_role'')'),
    ('grant_permission(''user'', ''read'', ''api'')'), ('revoke_permission(''user'', ''read'', ''users'')'), (format('set_usage_limit(%s, ''api_calls'', 5)', :anna)),
    (format('set_share(%s, 2)', :anna)), ('create_dataset(''more'')'), (format('append_samples(%s, array[''b''])', :data)),
    (format('append_records(%s, array[''{"text": "b"}''::jsonb])', :data)), ('dataset_from_query(''more'', ''select ''''a'''''')'), (format('delete_dataset(%s)', :data)),
    ('create_model(''m'')'), ('mark_favorite(''models'', 1)'), ('create_training(''t'')'), (format('plan_run(dataset_id => %s)', :data)), (format('submit_run(dataset_id => %s)', :data)),
    (format('cancel_run(%s)', :run)), (format('pause_run(%s)', :run)), (format('resume_run(%s)', :run)), (format('retry_run(%s)', :run)), ('logout()'),
    (format('authenticate(%L, true)', :'token')), ('current_user_id()'), ('has_permission(''read'', ''users'')'), ('config_fields()'),
    ('create_api_key(''k'')'), ('revoke_api_key(1)'), ('revoke_session(1)'), ('revoke_all_sessions()'), (format('unlock_user(%s)', :anna)),
    (format('map_database_role(%s, ''regress_reader'')', :anna)), (format('unmap_database_role(%s)', :anna)), ('current_session_id()'), ('current_api_key_id()'),
    ('grant_node(1, 1)'), ('revoke_node(1, 1)'), ('grant_image(1, 1)'), ('revoke_image(1, 1)'), ('grant_instance(1, 1)'), ('revoke_instance(1, 1)'),
    (format('why_waiting(%s)', :run)), (format('wait_for_run(%s, ''0 s'')', :run)), (format('export_artifact(%s)', :run)), (format('export_run(%s, ''{merged}'')', :run)), ('publish_checkpoint(''ftjob-1:ckpt-step-1'')'), (format('generate(%s)', :run)), ('grant_application(''regress_reader'')'), ('revoke_application(''regress_reader'')'),
    (format('fine_tuning_job(%s)', :run)), (format('fine_tuning_job_events(%s)', :run)), (format('fine_tuning_job_checkpoints(%s)', :run)),
    ('import_model(''/nothing'', ''m'')'), ('import_model(''GGUF''::bytea, ''m'')'), ('import_model(array[''config.json''], array[''{}''::bytea], ''m'')'), (format('publish_model(%s)', :run)),
    ('rollback_model(1)'), ('delete_model(1)'), ('export_model_file(1)'), ('export_model(1, ''{merged}'')'), ('set_model_public(1)'), ('grant_model(1, 1)'), ('revoke_model(1, 1)'),
    ('fine_tuning_jobs()'), (format('result_csv(%s)', :run)), (format('generate_many(array[''a''], run_id => %s)', :run)), (format('generate_stream(%s)', :run)), (format('evaluate(%s, %s)', :data, :run)),
    ('start_verification(''email'')'), ('confirm_verification(''email'', ''123456'')'), ('change_email(''a@readonly.test'', ''a long enough secret'')'),
    ('request_password_reset(''anna@readonly.test'')'), ('reset_password(''token'', ''another long secret'')'), ('enable_totp(''a long enough secret'')'),
    ('confirm_totp(''123456'')'), ('disable_totp(''a long enough secret'')'), ('regenerate_recovery_codes(''a long enough secret'')'),
    ('take_messages()'), ('confirm_message(1)'), ('fail_message(1, ''why'')'), ('create_invite()'), ('revoke_invite(1)'), ('add_ssh_key(''ssh-ed25519 AAAA'')'),
    ('remove_ssh_key(1)'), ('trust_connection_role(''discord'', ''regress_reader'')'), ('distrust_connection_role(''discord'', ''regress_reader'')'),
    ('link_connection(''discord'', ''1'')'), ('unlink_connection(1)'), ('login_with_connection(''discord'', ''1'')'),
    ('register_with_connection(''discord'', ''1'', ''rdo_carl'', ''carl@readonly.test'')'), ('deactivate_user(password => ''a long enough secret'')'),
    (format('activate_user(%s)', :anna)), ('delete_user(password => ''a long enough secret'')'), ('export_user_data()'),
    ('usage()'), ('check_limit(''api_calls'')'), ('count_usage(''api_calls'')'), (format('follow_plan(%s, ''api_calls'')', :anna)),
    (format('set_limit_time_zone(%s, ''UTC'')', :anna)), ('set_plan(''rdo'')'), ('set_plan_limit(''free'', ''api_calls'', 5)'), (format('subscribe(%s, ''premium'')', :anna)),
    (format('change_plan(%s, ''premium'')', :anna)), (format('cancel_subscription(%s)', :anna)), (format('keep_subscription(%s)', :anna)),
    (format('renew_subscription(%s)', :anna)), (format('record_payment(%s, ''pi_rdo'', 1, ''USD'')', :anna)), (format('payment_failed(%s)', :anna)),
    ('refund_payment(''pi_rdo'')');
\echo '# Public functions without a call here (there are none)'
select distinct p.proname from pg_proc p where p.pronamespace = 'pgtrain'::regnamespace and not exists (select from calls where call like p.proname || '(%');
grant select on calls to public;
create function pg_temp.try(call text) returns text language plpgsql as $$
begin
    execute 'select * from pgtrain.' || call;
    return 'done';
exception when others then
    return sqlstate || ' ' || regexp_replace(sqlerrm, '\d+', 'N', 'g');
end $$;
set session authorization regress_reader;
select pgtrain.authenticate(:'token', true) = :anna as is_anna;
set default_transaction_read_only = on;
select split_part(call, '(', 1), pg_temp.try(call) from calls where call <> 'logout()' order by 1;
-- All views and tables that it may read.
select count(*) filter (where pg_temp.try(format('has_permission(''read'', ''users''), (select count(*) from %s) t', c.oid::regclass)) <> 'done')
  from pg_class c where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'v') and has_table_privilege(c.oid, 'select');
select pgtrain.current_user_id() = :anna as is_anna;
select pgtrain.logout();
select pgtrain.current_user_id() is null as is_nobody;
set default_transaction_read_only = off;
select pgtrain.authenticate(:'token', true) = :anna as is_still_valid;
reset session authorization;
select pgtrain.logout();
select pgtrain.authenticate(:'token');
drop owned by regress_reader;
drop role regress_reader;
