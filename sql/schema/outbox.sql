-- Outbox: what has to be sent to people. An application of the operator delivers it (pgtrain.take_messages); channel pgtrain_outbox
-- wakes it. Codes and tokens are made when a message is taken, so none of them ever lies in a table.

create table pgtrain.outbox (
    id bigint generated always as identity primary key,
    kind text not null check (kind ~ '^[a-z][a-z0-9_]{1,62}$'),
    target text not null check (length(target) between 1 and 320),
    payload jsonb not null default '{}' check (jsonb_typeof(payload) = 'object'),
    user_id bigint references pgtrain.users on delete cascade,
    verification_id bigint references pgtrain.verifications on delete cascade,
    invite_id bigint references pgtrain.invites on delete cascade,
    attempts integer not null default 0 check (attempts >= 0),
    next_attempt_at timestamptz not null default now(),
    expires_at timestamptz not null,
    delivered_at timestamptz,
    failed_at timestamptz,
    error_message text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index outbox_due_idx on pgtrain.outbox (next_attempt_at, id) where delivered_at is null and failed_at is null;
create index outbox_user_id_idx on pgtrain.outbox (user_id);
create index outbox_verification_id_idx on pgtrain.outbox (verification_id);
create index outbox_invite_id_idx on pgtrain.outbox (invite_id);
create index outbox_created_at_idx on pgtrain.outbox (created_at);
comment on table pgtrain.outbox is 'Messages to people that an application of the operator delivers';
comment on column pgtrain.outbox.id is 'Key';
comment on column pgtrain.outbox.kind is 'What it says: email_verification, phone_verification, password_reset, invite, email_changed ...';
comment on column pgtrain.outbox.target is 'Address or number';
comment on column pgtrain.outbox.payload is 'What the text needs; emptied when it was delivered or given up. Codes are never in it';
comment on column pgtrain.outbox.user_id is 'User it is for, if known';
comment on column pgtrain.outbox.verification_id is 'Proof whose code it brings';
comment on column pgtrain.outbox.invite_id is 'Invitation whose code it brings';
comment on column pgtrain.outbox.attempts is 'How often it was taken for delivery';
comment on column pgtrain.outbox.next_attempt_at is 'Not to be taken before';
comment on column pgtrain.outbox.expires_at is 'Given up then';
comment on column pgtrain.outbox.delivered_at is 'When it was delivered';
comment on column pgtrain.outbox.failed_at is 'When it was given up';
comment on column pgtrain.outbox.error_message is 'Why the last attempt failed';
comment on column pgtrain.outbox.created_at is 'When made';
comment on column pgtrain.outbox.updated_at is 'When last changed';

-- Whoever delivers needs this right and no other.
insert into pgtrain.roles (id, name, description, is_system_role) overriding system value values
    (20, 'messenger', 'Delivers the messages of the outbox', true);
insert into pgtrain.permissions (id, action, entity, access, description) overriding system value values
    (900, 'update', 'messages', 'own', 'Update own messages'), (901, 'update', 'messages', 'any', 'Take messages of the outbox for delivery');
insert into pgtrain.role_permissions (id, role_id, permission_id) overriding system value
select r.id * 1000 + p.id, r.id, p.id from pgtrain.roles r, pgtrain.permissions p
 where r.name in ('superuser', 'admin', 'messenger') and p.entity = 'messages';

insert into pgtrain_private.hidden_columns values ('outbox', 'payload'), ('outbox', 'target');
select pgtrain_private.protect_table('outbox', null, null);
alter table pgtrain.outbox enable row level security;
alter table pgtrain.outbox force row level security;
create policy read_in_reach on pgtrain.outbox for select
    using (pgtrain_private.in_scope(coalesce(user_id, 0), (select pgtrain_private.owner_scope('read', 'admin'))));
comment on policy read_in_reach on pgtrain.outbox is 'Who may read administration sees how deliveries go';
