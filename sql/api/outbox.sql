-- Outbox, functions: putting a message in, and taking, confirming and failing deliveries.

create or replace function pgtrain_private.send(kind text, target text, payload jsonb default '{}', user_id bigint default null,
                                                verification_id bigint default null, invite_id bigint default null) returns bigint
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    message_id bigint;
begin
    insert into pgtrain.outbox (kind, target, payload, user_id, verification_id, invite_id, expires_at)
    values (send.kind, send.target, coalesce(send.payload, '{}'), send.user_id, send.verification_id, send.invite_id,
            clock_timestamp() + current_setting('pgtrain.message_lifetime')::interval)
    returning id into message_id;
    -- Nothing about it: anybody may listen.
    perform pg_notify('pgtrain_outbox', '');
    return message_id;
end $$;
comment on function pgtrain_private.send(text, text, jsonb, bigint, bigint, bigint) is 'Puts a message into the outbox; it is delivered when the transaction commits';

create or replace function pgtrain_private.require_messenger(act text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_writable(act);
    if pgtrain_private.require_permission('update', 'messages') <> 'any' then
        raise exception using errcode = '42501', message = 'permission denied to deliver messages',
            hint = 'Give the delivering account the role messenger.';
    end if;
end $$;
comment on function pgtrain_private.require_messenger(text) is 'Refuses who may not deliver messages';

-- The code or token of a message, made now; null when there is nothing to say any more. For requests of strangers it is here, and
-- not where they asked, that the address is looked up: so their request takes the same time and leaves the same trace for any.
create or replace function pgtrain_private.fill_message(message pgtrain.outbox) returns jsonb
    language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    account pgtrain.users;
    proof pgtrain.verifications;
    plain text;
    ends timestamptz;
begin
    if message.kind = 'password_reset' or (message.kind = 'email_verification' and message.verification_id is null) then
        select * into account from pgtrain.users u where lower(u.email) = lower(message.target) and u.is_active;
        if not found or (message.kind = 'email_verification' and account.is_verified) then
            return null;
        end if;
        insert into pgtrain.verifications as v (owner_id, type, target, secret)
        values (account.id, case message.kind when 'password_reset' then 'password_reset' else 'email' end::pgtrain.verification_type, account.email, '')
        on conflict (owner_id, type) where confirmed_at is null do update set target = excluded.target
        returning v.* into proof;
    elsif message.verification_id is not null then
        select * into proof from pgtrain.verifications v where v.id = message.verification_id and v.confirmed_at is null and v.target = message.target;
        if not found then
            return null;
        end if;
        select * into account from pgtrain.users u where u.id = proof.owner_id;
    end if;
    if proof.id is not null then
        update pgtrain.outbox o set user_id = account.id, verification_id = proof.id where o.id = message.id;
        if proof.type = 'password_reset' then
            plain := pgtrain_private.new_token();
            ends := clock_timestamp() + current_setting('pgtrain.reset_lifetime')::interval;
            update pgtrain.verifications v set secret = pgtrain_private.token_hash(plain), expires_at = ends where v.id = proof.id;
            return message.payload || jsonb_build_object('token', plain, 'username', account.username, 'expires_at', ends);
        end if;
        plain := pgtrain_private.new_code(proof.digits, proof.char_set);
        ends := clock_timestamp() + current_setting('pgtrain.verification_lifetime')::interval;
        update pgtrain.verifications v set secret = convert_to(pgtrain_private.hash_code(plain), 'UTF8'), expires_at = ends where v.id = proof.id;
        delete from pgtrain_private.wrong_codes w where w.verification_id = proof.id;
        return message.payload || jsonb_build_object('code', plain, 'username', account.username, 'expires_at', ends);
    elsif message.invite_id is not null then
        plain := pgtrain_private.new_token();
        update pgtrain.invites i set code_hash = pgtrain_private.token_hash(plain), sent_at = clock_timestamp() where i.id = message.invite_id
        returning i.expires_at into ends;
        return message.payload || jsonb_build_object('code', plain, 'expires_at', ends);
    end if;
    return message.payload;
end $$;
comment on function pgtrain_private.fill_message(pgtrain.outbox) is 'What a message says, with a new code; null when it has become pointless';

create or replace function pgtrain_private.tidy_outbox() returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    update pgtrain.outbox o set failed_at = clock_timestamp(), payload = '{}', error_message = coalesce(o.error_message, 'not delivered in time')
     where o.id in (select x.id from pgtrain.outbox x where x.delivered_at is null and x.failed_at is null and x.expires_at <= clock_timestamp()
                       for update skip locked);
    delete from pgtrain.outbox o
     where o.id in (select x.id from pgtrain.outbox x
                     where x.created_at < clock_timestamp() - interval '30 days' and (x.delivered_at is not null or x.failed_at is not null)
                     order by x.created_at limit 1000 for update skip locked);
end $$;
comment on function pgtrain_private.tidy_outbox() is 'Gives up messages past their time and removes those that ended a month ago';

create or replace function pgtrain.take_messages(max_messages integer default 10, lease interval default '1 minute')
    returns table (id bigint, kind text, target text, payload jsonb, user_id bigint, attempt integer, expires_at timestamptz)
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    message pgtrain.outbox;
begin
    perform pgtrain_private.require_messenger('take_messages');
    if max_messages is null or lease is null or max_messages not between 1 and 1000 or lease not between interval '1 second' and interval '1 day' then
        raise exception using errcode = '22023', message = 'max_messages or lease is out of range',
            detail = format('max_messages %s (1 to 1000), lease %s (1 second to 1 day).', max_messages, lease);
    end if;
    perform pgtrain_private.tidy_outbox();
    for message in
        select * from pgtrain.outbox o
         where o.delivered_at is null and o.failed_at is null and o.next_attempt_at <= clock_timestamp()
         order by o.next_attempt_at, o.id limit max_messages for update skip locked
    loop
        update pgtrain.outbox o set attempts = o.attempts + 1, next_attempt_at = clock_timestamp() + lease where o.id = message.id;
        payload := pgtrain_private.fill_message(message);
        if payload is null then
            delete from pgtrain.outbox o where o.id = message.id;
            continue;
        end if;
        select o.id, o.kind, o.target, o.user_id, o.attempts, o.expires_at into id, kind, target, user_id, attempt, expires_at
          from pgtrain.outbox o where o.id = message.id;
        return next;
    end loop;
end $$;
comment on function pgtrain.take_messages(integer, interval) is 'Messages to deliver, for the role messenger: commit, send them, then confirm_message or fail_message each. What is neither comes again after the lease, with a new code';

create or replace function pgtrain.confirm_message(message_id bigint) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pgtrain_private.require_messenger('confirm_message');
    update pgtrain.outbox o set delivered_at = clock_timestamp(), payload = '{}', error_message = null
     where o.id = confirm_message.message_id and o.delivered_at is null and o.failed_at is null and o.attempts > 0;
    return found;
end $$;
comment on function pgtrain.confirm_message(bigint) is 'Says that a message was delivered; false when it was not under way';

create or replace function pgtrain.fail_message(message_id bigint, error_message text, retry_after interval default null) returns boolean
    language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    message pgtrain.outbox;
    is_last boolean;
begin
    perform pgtrain_private.require_messenger('fail_message');
    select * into message from pgtrain.outbox o
     where o.id = fail_message.message_id and o.delivered_at is null and o.failed_at is null and o.attempts > 0 for update;
    if not found then
        return false;
    end if;
    is_last := message.attempts >= current_setting('pgtrain.message_attempts')::integer;
    update pgtrain.outbox o
       set error_message = left(fail_message.error_message, 500), failed_at = case when is_last then clock_timestamp() end,
           payload = case when is_last then '{}' else o.payload end,
           next_attempt_at = clock_timestamp() + coalesce(greatest(retry_after, interval '0'), least(interval '30 seconds' * power(2, least(message.attempts, 10) - 1), interval '1 hour'))
     where o.id = message.id;
    return not is_last;
end $$;
comment on function pgtrain.fail_message(bigint, text, interval) is 'Says that a delivery failed; it comes again later (retry_after, else ever more slowly) until it is given up. Returns whether it comes again';

revoke all on all routines in schema pgtrain, pgtrain_private from public;
