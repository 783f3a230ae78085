-- Rights: every kind of thing has its permissions, every table with an owner its policies by them; what applications may change in
-- tables; every function that changes something says so in the audit log.
\pset format unaligned
\pset tuples_only on
set client_min_messages = warning;

\echo '# Permissions by entity'
select p.entity || ': ' || string_agg(distinct p.action, ' ' order by p.action) from pgtrain.permissions p where p.id < 1000 group by p.entity order by p.entity collate "C";

\echo '# Tables by the entity whose permissions their policies ask for'
create temp view asked as
    select c.relname, p.polname, e.entity
      from pg_policy p join pg_class c on c.oid = p.polrelid and c.relnamespace = 'pgtrain'::regnamespace
     cross join lateral (select m[1] as entity
                           from regexp_matches(concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)),
                                               '(?:owner_scope|has_permission)\(''[a-z]+''::text, ''([a-z_]+)''::text', 'g') m) e;
select entity || ': ' || string_agg(distinct relname, ' ' order by relname) from asked group by entity order by entity collate "C";

\echo '# Exceptions to the rules (there are none)'
\echo 'policy that asks for an entity without permissions:'
select * from asked where entity not in (select p.entity from pgtrain.permissions p);
\echo 'table with an owner without a policy that asks for a permission:'
select distinct c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and a.attname in ('owner_id', 'user_id', 'actor_id')
   and c.relname not in (select relname from asked);
\echo 'function that asks for a permission that does not exist:'
select f.proname, m[1], m[2]
  from pg_proc f, regexp_matches(f.prosrc, '(?:require_permission|has_permission|may_access)\((?:[a-z_.]+, )?''([a-z]+)'', ''([a-z_]+)''', 'g') m
 where f.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
   and not exists (select from pgtrain.permissions p where p.action = m[1] and p.entity = m[2]);
\echo 'system role that is not one of the extension, or lacks:'
select name from pgtrain.roles where is_system_role <> (id < 1000)
union all select n from unnest(array['superuser', 'admin', 'premium', 'user', 'developer']) n where n not in (select name from pgtrain.roles where is_system_role);
\echo 'premium has not all that user has:'
select permission from pgtrain.role_grants where role = 'user' except select permission from pgtrain.role_grants where role = 'premium';
\echo 'anybody''s rows are reached by other roles than superuser and admin:'
select role, permission from pgtrain.role_grants where access = 'any' and role not in ('superuser', 'admin')
   and not (role = 'messenger' and entity = 'messages');  -- whose messages it delivers is anybody's by nature
