-- What the extension offers and what its roles may do, one line each: kind, name, comment, signature, parted by '|'. Read by test/checks/run.sh and
-- by scripts/functions_page.sh; run it with psql -A -t in a database that has the extension.
with offered as (
  select 'function' as kind, p.proname::text as name, obj_description(p.oid, 'pg_proc') as comment,
         format('%s(%s) → %s', p.proname, regexp_replace(pg_get_function_arguments(p.oid), '(DEFAULT [^:,]+)::[a-z ]+(\[\])?', '\1', 'g'),
                regexp_replace(pg_get_function_result(p.oid), '^TABLE', 'table')) as signature
    from pg_proc p
   where p.pronamespace = 'pgtrain'::regnamespace and p.prorettype <> 'trigger'::regtype and p.prokind = 'f'
  union all
  select 'procedure', p.proname, obj_description(p.oid, 'pg_proc'), format('%s(%s)', p.proname, pg_get_function_arguments(p.oid))
    from pg_proc p
   where p.pronamespace = 'pgtrain'::regnamespace and p.prokind = 'p'
  union all
  select case c.relkind when 'v' then 'view' else 'table' end, c.relname, obj_description(c.oid, 'pg_class'),
         (select string_agg(a.attname, ', ' order by a.attnum) from pg_attribute a
           where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
    from pg_class c
   where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
  union all
  select 'setting', name, short_desc, boot_val from pg_settings where name like 'pgtrain.%'
  union all
  -- For each entity what superuser; admin; premium; user; developer may do, of one's own or any.
  select 'rights', e.entity, '', (select string_agg(coalesce(case when g.actions = e.actions then 'everything' else g.actions end, '-'), '; ' order by r.id)
                                from pgtrain.roles r
                                left join lateral (select string_agg(w.word, ', ' order by w.word) as actions
                                                     from (select g.action || case when bool_or(g.access = 'any') then ' any' else '' end as word
                                                             from pgtrain.role_grants g where g.role = r.name and g.entity = e.entity group by g.action) w) g on true
                               where r.is_system_role)
    from (select p.entity, string_agg(distinct p.action || ' any', ', ' order by p.action || ' any') as actions from pgtrain.permissions p group by p.entity) e
)
select concat_ws('|', kind, name, regexp_replace(coalesce(comment, ''), '[|\s]+', ' ', 'g'), regexp_replace(signature, '[|\s]+', ' ', 'g'))
  from offered order by kind, name, signature;
