-- Models: described by users, published by runs, templates of administrators.
\set VERBOSITY terse
set client_min_messages = warning;
\pset format unaligned
create role regress_models;
select pgtrain.grant_application('regress_models');
select pgtrain.register_user('mod_anna', 'anna@models.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('mod_root', 'root@models.test', 'a long enough secret') as root \gset
select pgtrain.grant_role(:root, 'admin');
select session_token as anna_token from pgtrain.login('mod_anna', 'a long enough secret') \gset
select session_token as root_token from pgtrain.login('mod_root', 'a long enough secret') \gset

-- Publishing is idempotent and never fails for a name.
select pgtrain_private.publish_model(-1, :anna, 'poet', '{"config": {"context": 64}}') as poet \gset
select pgtrain_private.publish_model(-1, :anna, 'poet') = :poet as same;
select pgtrain_private.publish_model(-2, :anna, 'poet') <> :poet as another;
-- Also where the name with the run's number is taken, and for the longest names.
insert into pgtrain.models (owner_id, kind, name) values (:anna, 'external', 'poet (run -3)');
select pgtrain_private.publish_model(-3, :anna, 'poet') as third \gset
select name from pgtrain.models where id = :third;
delete from pgtrain.models where name like 'poet (run -3%';
select pgtrain_private.publish_model(-4, :anna, repeat('x', 200)) > 0 and pgtrain_private.publish_model(-5, :anna, repeat('x', 200)) > 0 as both_published;
select length(name), right(name, 9) from pgtrain.models where name like 'xxx%' order by name;
delete from pgtrain.models where name like 'xxx%';

set role regress_models;
select count(*) from pgtrain.models where name like 'poet%';
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select kind, name, context_length, run_id from pgtrain.models order by id;
select pgtrain.create_model('claude', provider => 'anthropic', model_id => 'claude-3-haiku-20240307', temperature => 0.7) > 0 as made;
savepoint s;
select pgtrain.create_model('claude');
rollback to s;
select pgtrain.create_model('12');
rollback to s;
select pgtrain.create_model('mine', 'local');
rollback to s;
select pgtrain.create_model('template', 'reference');
rollback to s;
select pgtrain.create_model('hot', temperature => -1);
rollback to s;
select pgtrain.create_model('hot', temperature => 'nan');
rollback to s;
select pgtrain.create_model(null);
rollback to s;
select pgtrain.create_model('hot', metadata => '[]');
rollback to s;
update pgtrain.models set owner_id = null;
rollback to s;
update pgtrain.models set display_name = 'Poet' where name = 'poet';
select name, display_name from pgtrain.models where display_name is not null;
commit;

begin;
select pgtrain.authenticate(:'root_token') = :root as is_root;
select pgtrain.create_model('mod template', 'reference', provider => 'openai', system_prompt => 'Be brief.') as template \gset
commit;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select name, provider, is_favorite from pgtrain.reference_models where id = :template;
select pgtrain.mark_favorite('models', :template), pgtrain.mark_favorite('models', :template);
select name, is_favorite from pgtrain.reference_models where id = :template;
select entity, user_id = :anna as hers from pgtrain.favorites;
savepoint marked;
insert into pgtrain.favorites (user_id, entity, entity_id) values (:anna, 'models', :template);
rollback to marked;
delete from pgtrain.favorites;
rollback to marked;
-- The right to delete would be the right to lock everybody out of the table.
lock table pgtrain.favorites in access exclusive mode;
rollback to marked;
select pgtrain.mark_favorite('models', -1);
rollback to marked;
select pgtrain.mark_favorite('roles', 1);
rollback to marked;
select pgtrain.mark_favorite(null, null);
rollback to marked;
select pgtrain.mark_favorite('models', :template, false), pgtrain.mark_favorite('models', :template, false);
update pgtrain.models set display_name = 'hijacked' where id = :template;
rollback;
reset role;
drop owned by regress_models;
drop role regress_models;
