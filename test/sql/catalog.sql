-- The catalogue: every object with its rights, so that a change of rights is a visible line; then the rules, each with no exception.
\pset format unaligned
\pset tuples_only on
set client_min_messages = warning;
create role regress_catalog;
select pgtrain.grant_application('regress_catalog');

\echo '# Functions: name(arguments): language, definer or invoker, pinned search_path, whether an application may execute it'
select format('%s.%s(%s): %s %s %s%s', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid), l.lanname,
              case when p.prosecdef then 'DEFINER' else 'invoker' end, coalesce(array_to_string(p.proconfig, ' '), 'no-path'),
              case when has_function_privilege('regress_catalog', p.oid, 'execute') then ' app' else '' end) collate "C" as line
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
 where n.nspname in ('pgtrain', 'pgtrain_private') order by line;

\echo '# Relations: name kind, row security, what an application may do (columns where not all)'
select format('%s.%s %s%s%s: %s', n.nspname, c.relname, c.relkind, case when c.relrowsecurity then ' rls' else '' end,
              case when c.relforcerowsecurity then ' forced' else '' end,
              coalesce((select string_agg(right_, ', ' order by right_ collate "C") from (
                  select p || case when has_table_privilege('regress_catalog', c.oid, p) then ''
                                   else ' (' || string_agg(a.attname, ' ' order by a.attnum) || ')' end as right_
                    from unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
                    left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and p <> 'DELETE'
                         and has_column_privilege('regress_catalog', c.oid, a.attnum, p)
                   where has_table_privilege('regress_catalog', c.oid, p) or a.attnum is not null
                   group by p) r), 'nothing')) collate "C" as line
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname in ('pgtrain', 'pgtrain_private') and c.relkind in ('r', 'v', 'p', 'm') order by line;

\echo '# Policies'
select regexp_replace(format('%s %s %s %s: %s%s', c.relname, p.polname, p.polcmd, case when p.polroles = '{0}' then 'all' else 'some' end,
           pg_get_expr(p.polqual, p.polrelid), ' check ' || pg_get_expr(p.polwithcheck, p.polrelid)), '\s+', ' ', 'g') collate "C" as line
  from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace
 where n.nspname in ('pgtrain', 'pgtrain_private') order by line;

\echo '# Rights of others than the owner and the application (there are none)'
select format('%s: %s', r.what, r.acl) from (
    select 'schema ' || n.nspname as what, n.nspacl as acl, n.nspowner as owner from pg_namespace n where n.nspname in ('pgtrain', 'pgtrain_private')
    union all select 'relation ' || c.oid::regclass, c.relacl, c.relowner from pg_class c where c.relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
    union all select 'column ' || a.attrelid::regclass || '.' || a.attname, a.attacl, c.relowner from pg_attribute a join pg_class c on c.oid = a.attrelid
               where c.relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
    union all select 'function ' || p.oid::regprocedure, p.proacl, p.proowner from pg_proc p where p.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)) r
 where exists (select from aclexplode(r.acl) x where x.grantee not in (r.owner, 'regress_catalog'::regrole) or x.is_grantable and x.grantee <> r.owner);
\echo '# Objects that do not belong to the owner of the extension (there are none)'
select pg_describe_object(d.classid, d.objid, 0)
  from pg_depend d join pg_extension e on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid and d.deptype = 'e' and e.extname = 'pgtrain'
  left join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid
  left join pg_proc p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
  left join pg_type t on d.classid = 'pg_type'::regclass and t.oid = d.objid
  left join pg_namespace n on d.classid = 'pg_namespace'::regclass and n.oid = d.objid
 where coalesce(c.relowner, p.proowner, t.typowner, n.nspowner) <> e.extowner;
\echo '# Triggers: table, name, function, when; A is also under session_replication_role = replica'
select format('%s %s: %s %s', t.tgrelid::regclass, t.tgname, t.tgfoid::regproc, t.tgenabled) collate "C" as line
  from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
   and not t.tgisinternal and t.tgname <> 'touch_updated_at' order by line;

\echo '# Exceptions to the rules (there are none)'
\echo 'PUBLIC has a right:'
select 'function ' || p.oid::regprocedure from pg_proc p where p.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
   and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) where grantee = 0)
union all
select 'relation ' || c.oid::regclass from pg_class c where c.relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
   and exists (select from aclexplode(c.relacl) where grantee = 0)
union all
select 'schema ' || n.nspname from pg_namespace n where n.nspname in ('pgtrain', 'pgtrain_private')
   and exists (select from aclexplode(n.nspacl) where grantee = 0);
\echo 'definer function, or function with SQL text that is parsed when it runs, without a pinned search_path:'
select p.oid::regprocedure from pg_proc p join pg_language l on l.oid = p.prolang
 where p.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
   and (p.prosecdef or l.lanname in ('sql', 'plpgsql') and p.prosqlbody is null) and not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false);
\echo 'table of pgtrain with an owner but without forced row security:'
select distinct c.oid::regclass from pg_class c join pg_attribute a on a.attrelid = c.oid
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and a.attname in ('owner_id', 'user_id', 'actor_id')
   and not (c.relrowsecurity and c.relforcerowsecurity);
\echo 'table with an owner but without an index that begins with it:'
select c.oid::regclass || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and a.attname in ('owner_id', 'user_id')
   and c.relname not in ('dataset_samples')  -- reached by its dataset
   and not exists (select from pg_index i where i.indrelid = c.oid and i.indkey[0] = a.attnum and i.indpred is null)
   and exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'f' and k.conkey = array[a.attnum]);
\echo 'private object that an application may name:'
select has_schema_privilege('regress_catalog', 'pgtrain_private', 'usage') or has_schema_privilege('regress_catalog', 'pgtrain', 'create');
\echo 'view that runs with the rights of its owner:'
select c.oid::regclass from pg_class c where c.relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace) and c.relkind = 'v'
   and not coalesce('security_invoker=true' = any (c.reloptions) or 'security_invoker=on' = any (c.reloptions), false);
\echo 'object without a comment:'
select c.oid::regclass::text from pg_class c where c.relnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
   and c.relkind in ('r', 'v', 'p', 'm') and obj_description(c.oid, 'pg_class') is null
union all
select p.oid::regprocedure::text from pg_proc p where p.pronamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace)
   and obj_description(p.oid, 'pg_proc') is null
union all
select t.oid::regtype::text from pg_type t where t.typnamespace in ('pgtrain'::regnamespace, 'pgtrain_private'::regnamespace) and t.typtype = 'e'
   and obj_description(t.oid, 'pg_type') is null
union all
select c.oid::regclass || '.' || a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
   and col_description(c.oid, a.attnum) is null;
\echo 'table of pgtrain whose rows a dump would lose:'
select c.oid::regclass from pg_class c where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p')
   and c.relname not in ('migration_log', 'compute_nodes', 'devices')  -- written anew by the installation and the workers
   and c.oid <> all (select unnest(extconfig) from pg_extension where extname = 'pgtrain');
\echo 'table of pgtrain with updated_at that is not kept:'
select c.oid::regclass from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'updated_at'
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p')
   and not exists (select from pg_trigger t where t.tgrelid = c.oid and t.tgname = 'touch_updated_at' and t.tgenabled <> 'D')
   and c.relname <> 'user_usage_limits';  -- kept by the functions that move it, see limits_edges

drop owned by regress_catalog;
drop role regress_catalog;
