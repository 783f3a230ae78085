-- The life of an account after registration: deactivation, deletion with what it owns, export of its data. The tables are found in the
-- catalogue, so that one that a later domain adds is not forgotten; test/sql/account_life.sql prints what becomes of each.

create or replace function pgtrain_private.administrators() returns table (user_id bigint, ends_at timestamptz)
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select u.id, max(coalesce(ur.expires_at, 'infinity'))
      from pgtrain.users u
      join pgtrain.user_roles ur on ur.user_id = u.id and ur.is_active and (ur.expires_at is null or ur.expires_at > clock_timestamp())
      join pgtrain.role_permissions rp on rp.role_id = ur.role_id and rp.is_granted
      join pgtrain.permissions p on p.id = rp.permission_id
     where u.is_active and p.action = 'update' and p.entity = 'admin' and p.access = 'any'
     group by u.id;
$$;
comment on function pgtrain_private.administrators() is 'Active users who can give roles, and until when';

-- Called before an act that may leave the platform without administrators, and keep_administrator after it. The locks make two such
-- acts at once see each other; the update makes the second fail to serialise where its snapshot is older.
create or replace function pgtrain_private.lock_administrators() returns timestamptz
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if pgtrain_private.is_server_administrator() then
        return null;
    end if;
    perform from pgtrain.user_roles ur where ur.user_id in (select a.user_id from pgtrain_private.administrators() a) order by ur.id for no key update;
    update pgtrain.user_roles ur set is_active = ur.is_active where ur.user_id in (select a.user_id from pgtrain_private.administrators() a);
    return (select max(a.ends_at) from pgtrain_private.administrators() a);
end $$;
comment on function pgtrain_private.lock_administrators() is 'Locks the roles of all administrators; returns until when there is one, null for the administrator of the server, who may do without';

create or replace function pgtrain_private.keep_administrator(until timestamptz) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    ends timestamptz := (select max(a.ends_at) from pgtrain_private.administrators() a);
begin
    if until is not null and (ends >= until) is not true then
        raise exception using errcode = 'PT409', message = 'the last administrator cannot leave',
            detail = case when ends is null then 'Nobody else could give roles.' else format('Nobody could give roles after %s.', ends) end,
            hint = 'Make another one first, without an end: pgtrain.grant_role(user_id, ''admin'').';
    end if;
end $$;
comment on function pgtrain_private.keep_administrator(timestamptz) is 'After an act: refuses it when the platform would be without an administrator sooner than before it';

create or replace function pgtrain_private.is_administrator(user_id bigint) returns boolean
    language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return exists (select from pgtrain_private.administrators() a where a.user_id = is_administrator.user_id);
end $$;
comment on function pgtrain_private.is_administrator(bigint) is 'Whether the user can give roles';

-- The account that a function is about: the caller's own, for which he shows what he has, or another's for who may.
create or replace function pgtrain_private.account_for(act text, action text, user_id bigint, password text, code text) returns pgtrain.users
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    me bigint := pgtrain.current_user_id();
    account pgtrain.users;
begin
    perform pgtrain_private.require_account_scope(act, action || ':users');
    if account_for.user_id is null or account_for.user_id = me then
        me := pgtrain_private.require_user();
        perform pgtrain_private.require_permission(action, 'users');
        perform pgtrain_private.confirm_self(me, password, code, true);
    elsif pgtrain_private.require_permission(action, 'users') <> 'any' then
        raise exception using errcode = '42501', message = format('permission denied to %s another user', action);
    else
        perform pgtrain_private.be_urgent();
    end if;
    -- Weaker where the row stays: what the user has written in a transaction that he leaves open refers to it.
    if action = 'delete' then
        select * into account from pgtrain.users u where u.id = coalesce(account_for.user_id, me) for update;
    else
        select * into account from pgtrain.users u where u.id = coalesce(account_for.user_id, me) for no key update;
    end if;
    if account.id is null then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', account_for.user_id);
    end if;
    return account;
end $$;
comment on function pgtrain_private.account_for(text, text, bigint, text, text) is 'Locks the account that the caller may act on, or an error';

create or replace function pgtrain.deactivate_user(user_id bigint default null, password text default null, code text default null) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    account pgtrain.users;
    until timestamptz;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('deactivate_user');
    account := pgtrain_private.account_for('deactivate_user', 'update', user_id, password, code);
    if not account.is_active then
        return false;
    end if;
    if pgtrain_private.is_administrator(account.id) then
        until := pgtrain_private.lock_administrators();
    end if;
    perform pgtrain_private.write_audit('user_deactivated', null, jsonb_build_object('user_id', account.id));
    delete from pgtrain.invites i where i.owner_id = account.id;
    update pgtrain.sessions s set is_active = false where s.user_id = account.id and s.is_active;
    update pgtrain.users u set is_active = false where u.id = account.id;
    perform pgtrain_private.keep_administrator(until);
    -- A claim that is under way is waited for, so that its attempt is seen; a later one finds the account closed.
    perform from pgtrain_private.run_queue q where q.owner_id = account.id order by q.run_id for update;
    perform pgtrain_private.ask_attempt(a.run_id, 'cancel')
       from pgtrain.run_attempts a where a.owner_id = account.id and a.ended_at is null order by a.run_id;
    return true;
end $$;
comment on function pgtrain.deactivate_user(bigint, text, text) is 'Closes the caller''s account (password and code needed), or that of a user for an administrator: no login, no sessions, no keys, open invitations void, no queued run starts, running ones are cancelled. activate_user opens it again. False when it is closed';

create or replace function pgtrain.activate_user(user_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    account pgtrain.users;
begin
    perform pgtrain_private.require_writable('activate_user');
    perform pgtrain_private.require_account_scope('activate_user', 'update:users');
    perform pgtrain_private.require_any('update', 'users', 'activate users');
    select * into account from pgtrain.users u where u.id = activate_user.user_id for update;
    if not found then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', activate_user.user_id);
    elsif account.deleted_at is not null then
        raise exception using errcode = 'PT409', message = format('user %s was deleted', account.id), detail = 'Only his payments are kept.';
    end if;
    update pgtrain.users u set is_active = true, activated_at = now() where u.id = account.id and not u.is_active;
    if not found then
        return false;
    end if;
    perform pgtrain_private.forget_lock(account.id);
    perform pgtrain_private.write_audit('user_activated', null, jsonb_build_object('user_id', account.id));
    return true;
end $$;
comment on function pgtrain.activate_user(bigint) is 'Opens a closed account again and lifts its lock; for administrators. False when it is open';

-- What becomes of the rows of each table when a user goes: handed over (to whom is named, else they go), personal (they go), kept (what
-- refers to the account by a foreign key only while its row is kept, counters among them, because they are the sums of the ledger).
create or replace function pgtrain_private.owned_tables() returns table (relation regclass, owner_column name, fate text)
    language sql stable set search_path = pg_catalog, pg_temp as $$
    select c.oid::regclass, a.attname,
           case when c.relname in ('audit_log', 'usage_entries', 'payment_history', 'user_subscriptions', 'billing_events',
                                   'user_usage_limits') then 'kept'
                when a.attname = 'owner_id' and c.relname not in ('verifications', 'invites', 'secrets', 'stored_secrets') then 'handed over'
                else 'personal' end
      from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p')
       and (a.attname in ('owner_id', 'user_id') or (c.relname = 'audit_log' and a.attname = 'actor_id'));
$$;
comment on function pgtrain_private.owned_tables() is 'Tables whose rows belong to users, and what becomes of them when the user is deleted';

create or replace function pgtrain_private.hand_over(from_user pgtrain.users, to_user bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    one record;
    stored bigint;
begin
    -- A name that the new owner has already is told apart by the former owner and the key.
    for one in
        select * from (values ('pgtrain.datasets', 'name', 200), ('pgtrain.models', 'name', 200), ('pgtrain.trainings', 'name', 100),
                              ('pgtrain.model_profiles', 'model_name', 200)) v (relation, name_column, longest)
    loop
        execute format('update %1$s t set %2$I = left(t.%2$I, %3$s) || format('' (%%s %%s)'', left($1, 40), t.id)
                         where t.owner_id = $2 and exists (select from %1$s o where o.owner_id = $3 and o.%2$I = t.%2$I)',
                       one.relation, one.name_column, one.longest - 63) using from_user.username, from_user.id, to_user;
    end loop;
    update pgtrain.training_runs r set idempotency_key = null where r.owner_id = from_user.id and r.idempotency_key is not null;
    -- Owners before what belongs to them: samples follow their dataset only.
    for one in
        select o.relation, o.owner_column from pgtrain_private.owned_tables() o
         where o.fate = 'handed over' order by o.relation <> 'pgtrain.datasets'::regclass, o.relation::text
    loop
        execute format('update %s t set %2$I = $1 where t.%2$I = $2', one.relation, one.owner_column) using to_user, from_user.id;
    end loop;
    -- What is handed over is taken over whatever the new owner's limit; datasets see to that by themselves.
    with moved as (
        update pgtrain_private.stored_files f set owner_id = to_user where f.owner_id = from_user.id returning f.counted_bytes)
    select sum(m.counted_bytes) into stored from moved m;
    if stored > 0 then
        perform pgtrain_private.move_usage(from_user.id, 'storage_bytes', -stored);
        perform pgtrain_private.move_usage(to_user, 'storage_bytes', stored, null, true);
    end if;
end $$;
comment on function pgtrain_private.hand_over(pgtrain.users, bigint) is 'Makes another user the owner of all that somebody owns, but for what is personal';

create or replace function pgtrain_private.anonymise(account_id bigint) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    one record;
begin
    for one in
        select k.conrelid::regclass as relation, a.attname, k.confdeltype
          from pg_constraint k join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
         where k.contype = 'f' and k.confrelid = 'pgtrain.users'::regclass and k.confdeltype in ('c', 'n')
           and k.conrelid not in ('pgtrain.user_subscriptions'::regclass, 'pgtrain.user_usage_limits'::regclass)
         order by k.conrelid::regclass::text, a.attname
    loop
        if one.confdeltype = 'c' then
            execute format('delete from %s t where t.%I = $1', one.relation, one.attname) using account_id;
        else
            execute format('update %s t set %2$I = null where t.%2$I = $1', one.relation, one.attname) using account_id;
        end if;
    end loop;
    perform pgtrain_private.end_subscription(s.id, 'cancelled')
       from pgtrain.user_subscriptions s where s.user_id = account_id and s.status in ('pending', 'trialing', 'active', 'past_due');
    update pgtrain.users u
       set username = 'deleted-' || u.id, email = 'deleted-' || u.id || '@deleted.invalid', name = null, first_name = null, last_name = null,
           phone = null, avatar_url = null, metadata = '{}', db_role = null, db_role_oid = null, is_active = false, is_verified = false,
           locked_until = null, failed_login_count = 0, deleted_at = now()
     where u.id = account_id;
end $$;
comment on function pgtrain_private.anonymise(bigint) is 'Leaves of a user who has paid a closed account without name or address, for his payments to refer to';

create or replace function pgtrain.delete_user(user_id bigint default null, password text default null, code text default null,
                                               hand_over_to bigint default null) returns text
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    account pgtrain.users;
    has_paid boolean;
    running text;
    until timestamptz;
begin
    perform pgtrain_private.hide_statement();
    perform pgtrain_private.require_writable('delete_user');
    account := pgtrain_private.account_for('delete_user', 'delete', user_id, password, code);
    if account.deleted_at is not null then
        raise exception using errcode = 'PT409', message = format('user %s was deleted', account.id);
    end if;
    if hand_over_to is not null then
        if pgtrain_private.require_permission('delete', 'users') <> 'any' then
            raise exception using errcode = '42501', message = 'permission denied to hand over what an account owns',
                detail = 'It counts against the limits of the other.', hint = 'Ask an administrator.';
        elsif hand_over_to = account.id or not exists (select from pgtrain.users u where u.id = hand_over_to and u.is_active for key share) then
            raise exception using errcode = 'PT404', message = format('user %s cannot take it over', hand_over_to), detail = 'There is no other active user of this id.';
        end if;
    end if;
    if pgtrain_private.is_administrator(account.id) then
        until := pgtrain_private.lock_administrators();
    end if;
    -- Out of the queue first, in the order in which workers lock.
    delete from pgtrain_private.run_queue q where q.owner_id = account.id;
    perform from pgtrain.training_runs r where r.owner_id = account.id and r.status in ('queued', 'paused', 'running') order by r.id for update;
    select string_agg(r.id::text, ', ' order by r.id) into running from pgtrain.training_runs r where r.owner_id = account.id and r.status = 'running';
    if running is not null then
        raise exception using errcode = 'PT409', message = format('user %s has running runs', account.id), detail = format('Runs: %s.', running),
            hint = 'Cancel them with pgtrain.cancel_run and wait for their end with pgtrain.wait_for_run.';
    end if;
    perform pgtrain_private.end_waiting_run(r.id, 'cancelled_by_user', null)
       from pgtrain.training_runs r where r.owner_id = account.id and r.status in ('queued', 'paused');
    has_paid := exists (select from pgtrain.payment_history p where p.user_id = account.id);
    -- The log names the caller, who may be ending himself.
    perform pgtrain_private.write_audit('user_deleted', null,
        jsonb_build_object('user_id', account.id, 'username', account.username, 'hand_over_to', hand_over_to, 'is_anonymised', has_paid));
    if hand_over_to is not null then
        perform pgtrain_private.hand_over(account, hand_over_to);
    end if;
    delete from pgtrain.invites i where i.owner_id = account.id;
    if has_paid then
        perform pgtrain_private.anonymise(account.id);
    else
        delete from pgtrain.users u where u.id = account.id;
    end if;
    perform pgtrain_private.keep_administrator(until);
    return case when has_paid then 'anonymised' else 'deleted' end;
end $$;
comment on function pgtrain.delete_user(bigint, text, text, bigint) is 'Deletes the caller''s account (password and code needed), or that of a user for an administrator, with all it owns, or hands that over. Waiting runs are cancelled, running ones refuse it. Ledger and audit log stay; who has paid leaves a nameless closed account (anonymised)';

create or replace function pgtrain.export_user_data(user_id bigint default null, with_samples boolean default true) returns jsonb
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    account_id bigint;
    one record;
    hidden text[];
    rows jsonb;
    answer jsonb := '{}';
begin
    if export_user_data.user_id is null or export_user_data.user_id = pgtrain.current_user_id() then
        account_id := pgtrain_private.require_user();
        perform pgtrain_private.require_permission('read', 'users');
    elsif pgtrain_private.require_permission('read', 'users') <> 'any' then
        raise exception using errcode = '42501', message = 'permission denied to export the data of another user';
    end if;
    account_id := coalesce(account_id, export_user_data.user_id);
    if not exists (select from pgtrain.users u where u.id = account_id) then
        raise exception using errcode = 'PT404', message = format('user %s does not exist', account_id);
    end if;
    perform pgtrain_private.require_account_scope('export_user_data', 'read:users');
    -- What was given to him is his as much as what he gives.
    for one in
        select o.relation, c.relname, string_agg(format('t.%I = $1', o.owner_column), ' or ' order by o.owner_column) as is_his
          from pgtrain_private.owned_tables() o join pg_class c on c.oid = o.relation group by o.relation, c.relname
        union all select 'pgtrain.users', 'users', 't.id = $1'
        order by 2
    loop
        if exists (select from pgtrain_private.hidden_columns h where h.table_name = one.relname and h.column_name is null) then
            continue;
        end if;
        hidden := array(select h.column_name::text from pgtrain_private.hidden_columns h where h.table_name = one.relname);
        if not with_samples and one.relname in ('dataset_samples', 'run_metrics', 'run_samples') then
            execute format('select jsonb_build_object(''rows'', count(*)) from %s t where %s', one.relation, one.is_his) into rows using account_id;
        else
            execute format('select coalesce(jsonb_agg(to_jsonb(t) - $2), ''[]'') from %s t where %s', one.relation, one.is_his)
               into rows using account_id, hidden;
        end if;
        answer := answer || jsonb_build_object(one.relname, rows);
    end loop;
    if not current_setting('transaction_read_only')::boolean then
        perform pgtrain_private.write_audit('user_data_exported', null, jsonb_build_object('user_id', account_id));
    end if;
    return answer;
exception when program_limit_exceeded or out_of_memory then
    raise exception using errcode = '54000', message = 'the data of this user is too large for one value', detail = sqlerrm,
        hint = 'Call it with with_samples => false; samples and metrics can be read from their tables.';
end $$;
comment on function pgtrain.export_user_data(bigint, boolean) is 'All that is stored of the caller (an administrator: of a user), by table, without hashes and secrets; with_samples => false counts samples and metrics only. Files: export_artifact';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
