-- Sharing: machines, images and instances of one user that another may use, until the grant ends or is taken back; and that
-- only their owner, or an administrator, says so.
-- The numbers in messages depend on what ran before.
\set VERBOSITY sqlstate
\pset format unaligned
\pset tuples_only on
set client_min_messages = warning;
select current_user as superuser \gset
create role regress_sharing login;
select pgtrain.grant_application('regress_sharing');
select pgtrain.register_user('shr_anna', 'anna@sharing.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('shr_ben', 'ben@sharing.test', 'a long enough secret') as ben \gset
select pgtrain.register_user('shr_carl', 'carl@sharing.test', 'a long enough secret') as carl \gset
select pgtrain.register_user('shr_root', 'root@sharing.test', 'a long enough secret') as root \gset
select pgtrain.grant_role(:root, 'administrator');
select session_token as anna_token from pgtrain.login('shr_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('shr_ben', 'a long enough secret') \gset
select session_token as carl_token from pgtrain.login('shr_carl', 'a long enough secret') \gset
select session_token as root_token from pgtrain.login('shr_root', 'a long enough secret') \gset
insert into pgtrain.compute_nodes (owner_id, name, has_gpu, has_nvidia_docker) values (:anna, 'shr-box', true, true) returning id as node \gset
insert into pgtrain.instance_images (node_id, owner_id, name, key) values (:node, :anna, 'private', 'p') returning id as private \gset
insert into pgtrain.instance_images (node_id, owner_id, name, key, is_published) values (:node, :anna, 'published', 'q', true) returning id as published \gset
insert into pgtrain.instances (node_id, owner_id, image_id, name) values (:node, :anna, :private, 'annas_box') returning id as instance \gset
insert into pgtrain.instances (node_id, owner_id, image_id, name) values (:node, :carl, :published, 'carls_box') returning id as carls \gset
insert into pgtrain.port_maps (node_id, instance_id, owner_id, port) values (:node, :instance, :anna, 22001), (:node, :carls, :carl, 22002);
select is_gpu_node from pgtrain.compute_nodes where id = :node;

\c - regress_sharing
set client_min_messages = warning;
prepare seen as
    select 'nodes: ' || (select coalesce(string_agg(name, ' ' order by name), '-') from pgtrain.compute_nodes where owner_id is not null)
        || '; images: ' || (select coalesce(string_agg(name, ' ' order by name), '-') from pgtrain.instance_images)
        || '; instances: ' || (select coalesce(string_agg(name, ' ' order by name), '-') from pgtrain.instances)
        || '; ports: ' || (select coalesce(string_agg(port::text, ' ' order by port), '-') from pgtrain.port_maps)
        || '; grants: ' || (select count(*) from pgtrain.managed_compute_nodes) || (select count(*) from pgtrain.managed_images) || (select count(*) from pgtrain.managed_instances);
\echo '# Nobody sees nothing and grants nothing'
execute seen;
select pgtrain.grant_node(:node, :carl);
\echo '# The owner sees all on his machine, others nothing, who made an instance sees that'
select pgtrain.authenticate(:'anna_token', true) = :anna; execute seen;
select pgtrain.authenticate(:'ben_token', true) = :ben; execute seen;
select pgtrain.authenticate(:'carl_token', true) = :carl; execute seen;

\echo '# Only the owner grants: not a stranger; of things that are not there the answer is the same'
select pgtrain.grant_node(:node, :carl);
select pgtrain.grant_node(-1, :carl);
select pgtrain.grant_image(:private, :carl);
select pgtrain.grant_instance(:instance, :carl);
select pgtrain.revoke_instance(:instance, :ben);
select pgtrain.authenticate(:'anna_token', true) = :anna;
select pgtrain.grant_node(:node, -1);
select pgtrain.grant_node(null, :ben);
select pgtrain.grant_node(:node, null);
select pgtrain.grant_node(:node, :anna);
select pgtrain.grant_node(:node, :ben, now() - interval '1 minute');

\echo '# A machine brings its published images, an image itself, an instance its ports'
select pgtrain.grant_node(:node, :ben, now() + interval '1 hour');
begin; select pgtrain.authenticate(:'ben_token') = :ben; execute seen; select pgtrain.grant_node(:node, :carl); rollback;
begin; select pgtrain.authenticate(:'ben_token') = :ben; update pgtrain.compute_nodes set name = 'mine'; rollback;
begin; select pgtrain.authenticate(:'ben_token') = :ben; update pgtrain.managed_compute_nodes set expires_at = null; rollback;
select pgtrain.grant_image(:private, :ben);
begin; select pgtrain.authenticate(:'ben_token') = :ben; execute seen; rollback;
select pgtrain.revoke_node(:node, :ben), pgtrain.revoke_node(:node, :ben);
begin; select pgtrain.authenticate(:'ben_token') = :ben; execute seen; rollback;
select pgtrain.grant_instance(:instance, :ben);
begin; select pgtrain.authenticate(:'ben_token') = :ben; execute seen; rollback;
\echo '# The owner sees what he granted; a third one sees none of it'
execute seen;
begin; select pgtrain.authenticate(:'carl_token') = :carl; execute seen; rollback;
\echo '# Taken back within an open transaction of the grantee''s session'
begin; select pgtrain.authenticate(:'ben_token') = :ben; execute seen;
select pgtrain.authenticate(:'anna_token') = :anna; select pgtrain.revoke_image(:private, :ben), pgtrain.revoke_instance(:instance, :ben);
select pgtrain.authenticate(:'ben_token') = :ben; execute seen; commit;

\echo '# An administrator grants and takes; who may not read at all sees nothing in spite of a grant'
select pgtrain.authenticate(:'root_token', true) = :root;
select pgtrain.grant_node(:node, :ben), pgtrain.grant_instance(:carls, :ben);
begin; select pgtrain.authenticate(:'ben_token') = :ben; execute seen; rollback;
select pgtrain.revoke_role(:ben, 'user');
begin; select pgtrain.authenticate(:'ben_token') = :ben; execute seen; rollback;
select pgtrain.grant_role(:ben, 'user');

\c - :superuser
set client_min_messages = warning;
\echo '# Expired: at once, without anybody doing anything'
update pgtrain.managed_compute_nodes set expires_at = clock_timestamp();
\c - regress_sharing
begin; select pgtrain.authenticate(:'ben_token') = :ben;
select name from pgtrain.compute_nodes where owner_id is not null;
select name from pgtrain.instance_images;
select name from pgtrain.instances;
rollback;

\c - :superuser
set client_min_messages = warning;
\echo '# What the log holds'
select title, l.actor_id is not null as by_user, case when subject->>'expires_at' is null then 'for good' else 'for a time' end
  from pgtrain.audit_log l where title ~ '^(node|image|instance)_(granted|revoked)$' and (subject->>'user_id')::bigint = :ben order by l.id;
\echo '# With its owner goes what is his, and what was granted of it'
delete from pgtrain.users where id = :anna;
select count(*) from pgtrain.compute_nodes where owner_id is not null;
select count(*) from pgtrain.managed_instances;
delete from pgtrain.users where id in (:ben, :carl, :root);
drop owned by regress_sharing;
drop role regress_sharing;
