-- Tenants: one user owns a row in every table that has owners; another user, and nobody, finds none of them in any table or view
-- of the catalogue. A table that a later domain adds is found by itself; one without a row of ours is named.
\set VERBOSITY terse
\pset format unaligned
set client_min_messages = warning;
select current_user as superuser \gset
create role regress_tenants login;
select pgtrain.grant_application('regress_tenants');
select pgtrain.register_user('ten_anna', 'anna@tenants.test', 'a long enough secret') as anna \gset
select pgtrain.register_user('ten_ben', 'ben@tenants.test', 'a long enough secret') as ben \gset
select session_token as anna_token from pgtrain.login('ten_anna', 'a long enough secret') \gset
select session_token as ben_token from pgtrain.login('ten_ben', 'a long enough secret') \gset

-- Rows of Anna, in the tables of each domain.
insert into pgtrain.verifications (owner_id, type, target, secret) values (:anna, 'totp', 'ten_anna', '\x00');
insert into pgtrain.connections (user_id, provider_name, provider_id) values (:anna, 'discord', 'ten_anna');
insert into pgtrain.invites (owner_id, code_hash) values (:anna, '\x74656e');
insert into pgtrain.ssh_keys (user_id, name, key, key_type, fingerprint) values (:anna, 'k', 'ssh-ed25519 AAAA', 'ssh-ed25519', 'f');
insert into pgtrain.api_keys (user_id, name, hash, prefix) values (:anna, 'k', '\x74656e', 'p');
insert into pgtrain.payment_history (user_id, payment_intent_id, amount, currency, status) values (:anna, 'ten', 1, 'USD', 'pending');
select pgtrain_private.hold_usage(:anna, 'training_jobs', 1, -1001);
insert into pgtrain.favorites (user_id, entity, entity_id) values (:anna, 'models', 1);
select pgtrain_private.publish_model(-1001, :anna, 'anna''s model') > 0 as published;
begin;
set local session_replication_role = replica;  -- its training need not exist
insert into pgtrain.training_images (owner_id, training_id, name, type) values (:anna, 1, 'anna.png', 'image/png');
commit;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
select pgtrain.append_samples(pgtrain.create_dataset('anna''s'), array['anna''s text']);
select pgtrain_private.write_audit('anna_was_here');
commit;

-- For each table and view with an owner: how many rows of Anna are there, how many does the role see.
create function public.regress_owned() returns table (relation regclass, owner_column name) language sql as $$
    select c.oid, a.attname
      from pg_class c join pg_attribute a on a.attrelid = c.oid
     where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'v', 'p', 'm')
       and (a.attname in ('owner_id', 'user_id', 'actor_id') or (c.relname = 'users' and a.attname = 'id')) $$;
create function public.regress_seen(anna bigint) returns table (relation regclass, seen bigint) language plpgsql as $$
declare
    one record;
begin
    for one in select * from public.regress_owned() loop
        relation := one.relation;
        begin
            execute format('select count(%I) from %s where %I = %s', one.owner_column, one.relation, one.owner_column, anna) into seen;
            return next;
        exception when insufficient_privilege then
            null;  -- refused altogether
        end;
    end loop;
end $$;
-- A row for each table that has none yet (those of later domains too): any values that fit. Its references need not exist.
create function pg_temp.fill(anna bigint) returns void language plpgsql as $$
declare
    one record;
    names text;
    vals text;
begin
    set local session_replication_role = replica;
    for one in select distinct o.relation from public.regress_owned() o join pg_class c on c.oid = o.relation and c.relkind in ('r', 'p')
                join public.regress_seen(anna) s on s.relation = o.relation and s.seen = 0 loop
        select string_agg(quote_ident(a.attname), ', '),
               string_agg(case when a.attname in ('owner_id', 'user_id', 'actor_id') then anna::text
                               when t.typtype = 'e' then (select quote_literal(e.enumlabel) from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder limit 1)
                               when t.typname in ('jsonb', 'json') then '''{}'''
                               when t.typname = 'bytea' then '''\x616e6e61'''
                               when t.typcategory = 'N' then '1'
                               when t.typcategory = 'D' then 'now()'
                               when t.typcategory = 'B' then 'true'
                               when t.typcategory = 'A' then '''{}'''
                               else '''anna''' end, ', ')
          into names, vals
          from pg_attribute a join pg_type t on t.oid = a.atttypid
         where a.attrelid = one.relation and a.attnum > 0 and not a.attisdropped and a.attidentity = '' and a.attgenerated = ''
           and (a.attname in ('owner_id', 'user_id', 'actor_id') or (a.attnotnull and not a.atthasdef));
        begin
            execute format('insert into %s (%s) values (%s)', one.relation, names, vals);
        exception when others then
            raise warning 'no row for %: %', one.relation, sqlerrm;
        end;
    end loop;
end $$;
select pg_temp.fill(:anna);
grant execute on function public.regress_owned(), public.regress_seen(bigint) to regress_tenants;
\echo '# Tables and views with owners in which this test has no row of Anna'
select relation from public.regress_seen(:anna) where seen = 0 order by relation::text collate "C";

\c - regress_tenants
set client_min_messages = warning;
begin;
select pgtrain.authenticate(:'anna_token') = :anna as is_anna;
\echo '# Anna sees herself in'
select distinct relation::text collate "C" as relation from public.regress_seen(:anna) where seen > 0 order by 1;
commit;
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
\echo '# Ben sees Anna in'
select * from public.regress_seen(:anna) where seen > 0;
-- Views without an owner column: nothing of Anna's shows in their text either.
create function pg_temp.traces() returns table (relation regclass, trace text) language plpgsql as $$
declare
    one regclass;
begin
    for one in select c.oid from pg_class c where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'v', 'p', 'm')
                  and has_table_privilege(c.oid, 'select') loop
        return query execute format('select %L::regclass, t::text from %s t where t::text ilike ''%%anna%%''', one, one);
    end loop;
end $$;
commit;
begin;
select pgtrain.authenticate(:'ben_token') = :ben as is_ben;
\echo '# Traces of Anna that Ben finds by text'
select * from pg_temp.traces();
commit;
\echo '# Nobody sees'
select * from public.regress_seen(:anna) where seen > 0;
select * from pg_temp.traces();

\c - :superuser
set client_min_messages = warning;
select count(pgtrain.delete_dataset(id)) from pgtrain.datasets where owner_id = :anna;
do $$
declare
    one record;
begin
    -- Rows that refer to nothing must not stay for other tests.
    set local session_replication_role = replica;
    for one in select * from public.regress_owned() o join pg_class c on c.oid = o.relation and c.relkind in ('r', 'p') where o.relation::text <> 'pgtrain.users' loop
        begin
            execute format('delete from %s where %I in (select id from pgtrain.users where username = ''ten_anna'')', one.relation, one.owner_column);
        exception when sqlstate 'PT405' then
            null;
        end;
    end loop;
end $$;
drop function public.regress_seen(bigint), public.regress_owned();
drop owned by regress_tenants;
drop role regress_tenants;
