-- The life of an account: deactivation, deletion with or without handing over, anonymising of who has paid, export; and for each
-- table with an owner what becomes of it, so that one that a later domain adds is a visible line here.
\set VERBOSITY terse
\pset format unaligned
select current_user as superuser \gset
set client_min_messages = warning;
create role regress_life login;
select pgtrain.grant_application('regress_life');
select pgtrain.register_user('lif_anna', 'anna@life.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('lif_ben', 'ben@life.test', 'another long secret') as ben \gset
select pgtrain.register_user('lif_carl', 'carl@life.test', 'the secret of carl') as carl \gset
select pgtrain.register_user('lif_boss', 'boss@life.test', 'the secret of the boss') as boss \gset
select pgtrain.grant_role(:boss, 'admin');
-- Administrators that other tests have left do not count here.
create table public.regress_life_others as select ur.id from pgtrain.user_roles ur where ur.is_active and ur.user_id in (select a.user_id from pgtrain_private.administrators() a where a.user_id <> :boss);
update pgtrain.user_roles set is_active = false where id in (select id from public.regress_life_others);
select session_token as anna_token from pgtrain.login('lif_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('lif_ben', 'another long secret') \gset
select session_token as boss_token from pgtrain.login('lif_boss', 'the secret of the boss') \gset

\echo '# What becomes of each table'
select fate, string_agg(relation || '.' || owner_column, ' ' order by relation::text collate "C") from pgtrain_private.owned_tables() group by fate order by fate;
\echo '# Rows that refer to a user in a table that is not among them'
select k.conrelid::regclass, a.attname, k.confdeltype
  from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
 where k.contype = 'f' and k.confrelid = 'pgtrain.users'::regclass
   and not exists (select from pgtrain_private.owned_tables() o where o.relation = k.conrelid and o.owner_column = a.attname)
 order by k.conrelid::regclass::text collate "C", 2;

\c - regress_life
set client_min_messages = warning;
\echo '# Things of Anna and of Ben, with equal names'
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
select pgtrain.append_samples(pgtrain.create_dataset('poems'), array['ben''s poem']);
select pgtrain.create_training('rhymes') > 0;
commit;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.create_dataset('poems') as dataset \gset
select pgtrain.append_samples(:dataset, array['a poem of anna', 'another one']);
select pgtrain.create_training('rhymes') as training \gset
select pgtrain.submit_run(training_id => :training, dataset_id => :dataset, config => '{"size": "nano", "steps": 2}', start_at => now() + interval '1 day') as run \gset
select pgtrain.add_ssh_key('ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIITP1uD1HE3IkBWK/i2xiO2+696QcrHfEBQ9gNeSxQHB', 'home') > 0 as added;

\echo '# Export: all of Anna, nothing of Ben, no hash or secret'
select pgtrain.export_user_data(:ben);
create temp table export as select pgtrain.export_user_data() as data;
select key, jsonb_array_length(value) as rows from export, jsonb_each(data) where jsonb_array_length(value) > 0 order by key collate "C";
select data #>> '{users,0,email}' as email, data #>> '{dataset_samples,1,content,text}' as sample, data #>> '{ssh_keys,0,name}' as key from export;
select data::text ~* 'lif_ben|ben''s|argon2|token_hash|code_hash|"secret"|"hash"' as leaks from export;
select pgtrain.export_user_data(with_samples => false) -> 'dataset_samples' as samples_counted;
\c - :superuser
set client_min_messages = warning;
create temp table export as select pgtrain.export_user_data(:anna) as data;
\echo '# Tables with an owner that the export leaves out'
select o.relation from pgtrain_private.owned_tables() o join pg_class c on c.oid = o.relation
 where not (select data from export) ? c.relname order by 1;
\echo '# Hidden columns in it'
select h.table_name, h.column_name from pgtrain_private.hidden_columns h, export, jsonb_each(data) e, jsonb_array_elements(e.value) r
 where e.key = h.table_name and r ? h.column_name;

\echo '# Deactivation: with what one has, or by who manages users; sessions end, the last administrator stays'
\c - regress_life
set client_min_messages = warning;
select pgtrain.deactivate_user();
select pgtrain.authenticate(:'ben_token', session => true) = :ben as is_ben;
select pgtrain.deactivate_user();
select pgtrain.deactivate_user(:anna);
select pgtrain.activate_user(:anna);
select pgtrain.deactivate_user(password => 'wrong');
select pgtrain.deactivate_user(password => 'another long secret');
select pgtrain.current_user_id() is null as is_nobody;
select count(*) from pgtrain.login('lif_ben', 'another long secret');
select pgtrain.authenticate(:'boss_token', session => true) = :boss as is_boss;
select pgtrain.deactivate_user(:ben);
select pgtrain.activate_user(:ben), pgtrain.activate_user(:ben);
select pgtrain.activate_user(-1);
select pgtrain.deactivate_user(password => 'the secret of the boss');
select pgtrain.delete_user(password => 'the secret of the boss');
select pgtrain.revoke_role(:boss, 'admin');
-- Nor may he set his own end, or take the right from the role.
select pgtrain.grant_role(:boss, 'admin', now() - interval '1 second');
select pgtrain.grant_role(:boss, 'administrator', now() + interval '1 day');
select pgtrain.revoke_permission('admin', 'update', 'admin', 'any');
begin;
select pgtrain.grant_role(:boss, 'premium', now() + interval '1 day');
select pgtrain.revoke_permission('admin', 'update', 'models', 'any');
select pgtrain.grant_role(:ben, 'admin');
select pgtrain.grant_role(:boss, 'admin', now() + interval '1 day');
rollback;
\echo '# Nor does he lose the right with his role, or its being without end; who has it for a time does not stand in for him'
select pgtrain.revoke_permission('admin', 'update', 'admin', 'any');
select pgtrain.grant_role(:boss, 'admin', now() + interval '1 hour');
select pgtrain.grant_role(:carl, 'admin', now() + interval '1 day');
select pgtrain.revoke_role(:boss, 'admin');
select pgtrain.deactivate_user(password => 'the secret of the boss');
select pgtrain.delete_user(password => 'the secret of the boss');
select pgtrain.grant_role(:boss, 'admin', now() + interval '2 days');
\echo '# Another without end does; then one may take the role for a time, and who has it longest of all stays'
select pgtrain.grant_role(:carl, 'admin');
begin;
select pgtrain.grant_role(:boss, 'admin', now() + interval '2 days');
select pgtrain.revoke_role(:carl, 'developer');
savepoint carl;
select pgtrain.deactivate_user(:carl);
rollback to carl;
select pgtrain.revoke_role(:boss, 'admin');
rollback;
select pgtrain.revoke_permission('admin', 'update', 'admin', 'any');
select pgtrain.revoke_role(:carl, 'admin');
begin;
select pgtrain.authenticate(session_token) = :ben as is_ben from pgtrain.login('lif_ben', 'another long secret');
select pgtrain.has_permission('read', 'users') as may;
select pgtrain.submit_run(dataset_id => id, config => '{"size": "nano", "steps": 2}', start_at => now() + interval '1 day') as ben_run from pgtrain.datasets where name = 'poems' \gset
commit;

\echo '# Closing an account asks its running runs to stop'
\c - :superuser
set client_min_messages = warning;
update pgtrain.training_runs set status = 'running' where id = :ben_run;
insert into pgtrain.run_attempts (run_id, attempt, owner_id, worker_pid, incarnation, expires_at) values (:ben_run, 1, :ben, 0, 0, 'infinity');
select requested from pgtrain.run_attempts where run_id = :ben_run;
\c - regress_life
set client_min_messages = warning;
select pgtrain.authenticate(:'boss_token', session => true) = :boss as is_boss;
select pgtrain.deactivate_user(:ben);
\c - :superuser
set client_min_messages = warning;
select requested from pgtrain.run_attempts where run_id = :ben_run;
\echo '# Also one that was claimed at that moment'
update pgtrain.run_attempts set requested = 'none' where run_id = :ben_run;
select threads from pgtrain_private.load_job(:ben_run, 1, 1, null);
select requested from pgtrain.run_attempts where run_id = :ben_run;
delete from pgtrain.run_attempts where run_id = :ben_run;
update pgtrain.training_runs set status = 'queued' where id = :ben_run;
select pgtrain.activate_user(:ben), pgtrain.cancel_run(:ben_run);

\echo '# Deletion: a running run refuses it, a waiting one is cancelled; hand over only by an administrator'
\c - :superuser
set client_min_messages = warning;
update pgtrain.training_runs set status = 'running' where id = :run;
\c - regress_life
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
\set VERBOSITY sqlstate
select pgtrain.delete_user(password => 'a long enough secret');
\set VERBOSITY terse
\c - :superuser
set client_min_messages = warning;
update pgtrain.training_runs set status = 'queued' where id = :run;
insert into pgtrain_private.stored_files (run_id, owner_id, storage, bytes, counted_bytes, sha256) values (:run, :anna, 'rows', 100, 0, sha256('a file'));
update pgtrain_private.stored_files set counted_bytes = 100 where run_id = :run;
insert into pgtrain.compute_nodes (owner_id, name) values (:anna, 'lif_node') returning id as node \gset
insert into pgtrain.managed_compute_nodes (node_id, user_id, owner_id) values (:node, :carl, :anna);
\c - regress_life
set client_min_messages = warning;
select pgtrain.authenticate(:'anna_token', session => true) = :anna as is_anna;
select pgtrain.delete_user(:ben);
select pgtrain.delete_user();
select pgtrain.delete_user(password => 'a long enough secret', hand_over_to => :ben);
select pgtrain.authenticate(:'boss_token', session => true) = :boss as is_boss;
\set VERBOSITY sqlstate
select pgtrain.delete_user(:anna, hand_over_to => :anna);
\set VERBOSITY terse
select pgtrain.delete_user(:anna, hand_over_to => -1);
select pgtrain.delete_user(:anna, hand_over_to => :ben);
\c - :superuser
set client_min_messages = warning;
select count(*) from pgtrain.users where id = :anna;
select regexp_replace(name, '\d+', 'N') as name, sample_count from pgtrain.datasets where owner_id = :ben order by id;
select content ->> 'text' as sample from pgtrain.dataset_samples where owner_id = :ben order by dataset_id, ordinal;
select regexp_replace(name, '\d+', 'N') as name from pgtrain.trainings where owner_id = :ben order by id;
select status, end_reason, owner_id = :ben as is_bens from pgtrain.training_runs where id = :run;
select bool_and(owner_id = :ben) as events_are_bens from pgtrain.training_statuses where training_run_id = :run;
select n.owner_id = :ben as is_bens, m.owner_id = :ben as grant_is_bens, m.user_id = :carl as to_carl
  from pgtrain.compute_nodes n join pgtrain.managed_compute_nodes m on m.node_id = n.id where n.id = :node;
select (select l.used_value from pgtrain.user_usage_limits l where l.user_id = :ben and l.resource_type = 'storage_bytes')
       - (select sum(d.size_bytes) from pgtrain.datasets d where d.owner_id = :ben) as bytes_of_files,
       not exists (select from pgtrain_private.check_ledger() c where c.user_id = :ben) as ledger_agrees;
select count(*) as ssh_keys from pgtrain.ssh_keys where user_id in (:anna, :ben);
select kind, sum(amount) from pgtrain.usage_entries where user_id = :anna and resource_type = 'training_jobs' group by kind order by kind;
select title, subject - 'user_id' - 'hand_over_to' as subject from pgtrain.audit_log where (subject ->> 'user_id')::bigint = :anna and title like 'user\_%' order by id;
select count(*) from pgtrain_private.run_queue where run_id = :run;
\echo '# Samples are still nobody''s to change'
update pgtrain.dataset_samples set owner_id = :boss where owner_id = :ben;
update pgtrain.training_statuses set status = 'forged' where training_run_id = :run;

\echo '# Who has paid becomes nameless'
insert into pgtrain.payment_history (user_id, payment_intent_id, amount, currency, status) values (:carl, 'life-1', 2999, 'USD', 'completed');
insert into pgtrain.connections (user_id, provider_name, provider_id) values (:carl, 'discord', 'carl');
\c - regress_life
set client_min_messages = warning;
select session_token as carl_token from pgtrain.login('lif_carl', 'the secret of carl') \gset
select pgtrain.authenticate(:'carl_token', session => true) = :carl as is_carl;
select pgtrain.create_dataset('carl''s') > 0;
select pgtrain.delete_user(password => 'the secret of carl');
select pgtrain.current_user_id() is null as is_nobody;
select count(*) from pgtrain.login('lif_carl', 'the secret of carl');
select pgtrain.authenticate(:'boss_token', session => true) = :boss as is_boss;
\set VERBOSITY sqlstate
select pgtrain.activate_user(:carl);
select pgtrain.delete_user(:carl);
\set VERBOSITY terse
\c - :superuser
set client_min_messages = warning;
select regexp_replace(username, '\d+', 'N') as username, regexp_replace(email, '\d+', 'N') as email, is_active, deleted_at is not null as is_deleted from pgtrain.users where id = :carl;
select payment_intent_id from pgtrain.payment_history where user_id = :carl;
select not exists (select from pgtrain_private.check_ledger() c where c.user_id = :carl) as ledger_agrees;
select c.relname, xpath('/row/n/text()', query_to_xml(format('select count(*) as n from %s where %I = %s', o.relation, o.owner_column, :carl), false, true, '')) as rows
  from pgtrain_private.owned_tables() o join pg_class c on c.oid = o.relation
 where (xpath('/row/n/text()', query_to_xml(format('select count(*) as n from %s where %I = %s', o.relation, o.owner_column, :carl), false, true, '')))[1]::text <> '0'
   and o.fate <> 'kept' order by 1;
update pgtrain.user_roles set is_active = true where id in (select id from public.regress_life_others);
drop table public.regress_life_others;
delete from pgtrain.payment_history where user_id = :carl;
delete from pgtrain.users where username like 'lif\_%' or id = :carl;
drop owned by regress_life;
drop role regress_life;
