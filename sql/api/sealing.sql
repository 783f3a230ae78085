-- Sealing, functions: the root keys that the server has, rotation to the current one, and which rows open under which key.

create or replace function pgtrain_private.root_key_ids() returns text[]
    language c stable parallel restricted as 'MODULE_PATHNAME', 'pgtrain_root_key_ids';
comment on function pgtrain_private.root_key_ids() is 'Ids of the root keys that the server has, the current one first; empty when there is none';

create or replace function pgtrain_private.root_key_problem() returns text
    language c stable parallel restricted as 'MODULE_PATHNAME', 'pgtrain_root_key_problem';
comment on function pgtrain_private.root_key_problem() is 'Why there are no root keys or why the last reload left the former ones, null when all is well';

create or replace function pgtrain_private.sealed_problem(sealed bytea, identity text) returns text
    language c stable strict parallel restricted as 'MODULE_PATHNAME', 'pgtrain_sealed_problem';
comment on function pgtrain_private.sealed_problem(bytea, text) is 'Why sealed bytes do not open for this row, null when they do';

create or replace function pgtrain_private.seal_again(sealed bytea, identity text) returns bytea
    language c volatile strict parallel restricted as 'MODULE_PATHNAME', 'pgtrain_seal_again';
comment on function pgtrain_private.seal_again(bytea, text) is 'The same secret sealed under the current root key, for the same row';

create or replace function pgtrain_private.sealed_identity(entry pgtrain_private.sealed_columns) returns text
    language sql immutable set search_path = pg_catalog, pg_temp as $$
    select format('concat_ws(''/'', %L, %s)', (entry).table_name || '/' || (entry).column_name,
                  (select string_agg(format('t.%I', k), ', ' order by n) from unnest((entry).key_columns) with ordinality u (k, n)));
$$;
comment on function pgtrain_private.sealed_identity(pgtrain_private.sealed_columns) is 'The identity of a row t of that table, as an expression in SQL';

create or replace function pgtrain_private.rotate_portion(batch integer) returns bigint
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    keys text[] := pgtrain_private.root_key_ids();
    entry pgtrain_private.sealed_columns;
    changed bigint;
    total bigint := 0;
begin
    if cardinality(keys) < 2 then
        return 0;
    end if;
    for entry in select * from pgtrain_private.sealed_columns c order by c.table_name, c.column_name loop
        exit when total >= batch;
        -- Rows that somebody is changing are left for the next time, and so are those that do not open.
        execute format(
            'with todo as ('
            '    select t.ctid from pgtrain.%1$I t'
            '     where pgtrain_private.sealed_key(t.%2$I) = any ($1) and (%3$s) and pgtrain_private.sealed_problem(t.%2$I, %4$s) is null'
            '     limit $2 for no key update skip locked)'
            'update pgtrain.%1$I t set %2$I = pgtrain_private.seal_again(t.%2$I, %4$s) from todo where t.ctid = todo.ctid',
            entry.table_name, entry.column_name, entry.condition, pgtrain_private.sealed_identity(entry))
            using keys[2:], batch - total;
        get diagnostics changed = row_count;
        total := total + changed;
    end loop;
    return total;
end $$;
comment on function pgtrain_private.rotate_portion(integer) is 'Seals at most so many rows anew that are under an old root key; returns how many it were. What is done stays done when it is interrupted between portions';

create or replace function pgtrain.rotate_secrets(batch integer default 1000) returns bigint
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    changed bigint;
begin
    perform pgtrain_private.require_writable('rotate_secrets');
    perform pgtrain_private.require_any('update', 'admin', 'rotate secrets');
    if batch is null or batch < 1 then
        raise exception using errcode = '22023', message = 'the portion must be 1 or more';
    end if;
    if cardinality(pgtrain_private.root_key_ids()) = 0 then
        raise exception using errcode = 'PT503', message = 'there is no root key to seal or open secrets with',
            detail = pgtrain_private.root_key_problem(), hint = 'See pgtrain.root_key_file.';
    end if;
    changed := pgtrain_private.rotate_portion(batch);
    if changed > 0 then
        perform pgtrain_private.write_audit('secrets_rotated', null,
            jsonb_build_object('rows', changed, 'key_id', (pgtrain_private.root_key_ids())[1]));
    end if;
    return changed;
end $$;
comment on function pgtrain.rotate_secrets(integer) is 'Seals at most BATCH secrets anew that are under an old root key; returns how many, 0 when there are no more. The scheduler does the same by itself';

create or replace function pgtrain.check_secrets() returns table (table_name text, row_key text, owner_id bigint, name text, key_id text,
                                                                  has_key boolean, is_current boolean, opens boolean, problem text)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    keys text[] := pgtrain_private.root_key_ids();
    entry pgtrain_private.sealed_columns;
begin
    -- As with rows that somebody may not see: for him there are none.
    if not (pgtrain.has_permission('read', 'admin', 'any') or pgtrain_private.is_server_administrator()) then
        return;
    end if;
    for entry in select * from pgtrain_private.sealed_columns c order by c.table_name, c.column_name loop
        return query execute format(
            'select %1$L, concat_ws(''/'', %2$s), t.%3$I, t.%4$I::text, k.key_id, coalesce(k.key_id = any ($1), false), coalesce(k.key_id = $1[1], false),'
            '       p.problem is null, p.problem'
            '  from pgtrain.%1$I t, lateral (select pgtrain_private.sealed_key(t.%5$I) offset 0) k (key_id),'
            '       lateral (select pgtrain_private.sealed_problem(t.%5$I, %6$s) offset 0) p (problem)'
            ' where %7$s',
            entry.table_name, (select string_agg(format('t.%I', u.k), ', ' order by u.n) from unnest(entry.key_columns) with ordinality u (k, n)),
            entry.owner_column, entry.label_column, entry.column_name, pgtrain_private.sealed_identity(entry), entry.condition)
            using keys;
    end loop;
end $$;
comment on function pgtrain.check_secrets() is 'Opens every sealed secret without showing any, for administrators: which root key each needs, whether the server has it, whether it opens. No rows for others';

create or replace function pgtrain.list_root_keys() returns table (key_id text, is_current boolean)
    language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_any('read', 'admin', 'see root keys');
    if pgtrain_private.root_key_problem() is not null then
        raise warning using message = 'the root keys are not as they should be', detail = pgtrain_private.root_key_problem();
    end if;
    return query select k, n = 1 from unnest(pgtrain_private.root_key_ids()) with ordinality u (k, n);
end $$;
comment on function pgtrain.list_root_keys() is 'Ids of the root keys that the server has, for administrators; warns when the last reading of them failed';

create or replace view pgtrain.secret_health with (security_invoker) as
    select c.table_name, c.row_key, c.owner_id, c.name, c.key_id, c.has_key, c.is_current, c.opens, c.problem from pgtrain.check_secrets() c;
comment on view pgtrain.secret_health is 'Each sealed secret, for administrators: the root key it needs, whether the server has it, whether it opens';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
