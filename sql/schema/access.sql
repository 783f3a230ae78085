-- Access: roles, permissions and who has which. A permission is (action, entity, own or any); a user's right is what his active,
-- unexpired roles grant. Seeds have ids below 1000; a restored dump overwrites them (merge_seed).

create type pgtrain.permission_access as enum ('own', 'any');
comment on type pgtrain.permission_access is 'Whether a permission reaches own rows or everybody''s';

create table pgtrain.roles (
    id bigint generated always as identity (start with 1000) primary key,
    name text not null unique check (name ~ '^[a-z][a-z0-9_]{1,62}$'),
    description text not null default '',
    is_system_role boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table pgtrain.roles is 'Roles of users within the platform; not database roles';
comment on column pgtrain.roles.id is 'Key';
comment on column pgtrain.roles.name is 'Unique name';
comment on column pgtrain.roles.description is 'What it is for';
comment on column pgtrain.roles.is_system_role is 'Comes with the extension and cannot be removed';
comment on column pgtrain.roles.created_at is 'When made';
comment on column pgtrain.roles.updated_at is 'When last changed';

create table pgtrain.permissions (
    id bigint generated always as identity (start with 1000) primary key,
    action text not null check (action ~ '^[a-z][a-z_]*$'),
    entity text not null check (entity ~ '^[a-z][a-z_]*$'),
    access pgtrain.permission_access not null default 'own',
    description text not null default '',
    name text not null generated always as (entity || '_' || action || case access when 'own'::pgtrain.permission_access then '_own' else '_any' end) stored unique,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (action, entity, access)
);
comment on table pgtrain.permissions is 'What may be done to what';
comment on column pgtrain.permissions.id is 'Key';
comment on column pgtrain.permissions.action is 'create, read, update, delete, access, chat';
comment on column pgtrain.permissions.entity is 'Kind of thing (the resource)';
comment on column pgtrain.permissions.access is 'Own rows or any';
comment on column pgtrain.permissions.description is 'In words';
comment on column pgtrain.permissions.name is 'entity_action_access';
comment on column pgtrain.permissions.created_at is 'When made';
comment on column pgtrain.permissions.updated_at is 'When last changed';

create table pgtrain.role_permissions (
    id bigint generated always as identity (start with 100000) primary key,
    role_id bigint not null references pgtrain.roles on delete cascade,
    permission_id bigint not null references pgtrain.permissions on delete cascade,
    is_granted boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (role_id, permission_id)
);
create index role_permissions_permission_id_idx on pgtrain.role_permissions (permission_id);
comment on table pgtrain.role_permissions is 'Permissions of roles';
comment on column pgtrain.role_permissions.id is 'Key';
comment on column pgtrain.role_permissions.role_id is 'Role';
comment on column pgtrain.role_permissions.permission_id is 'Permission';
comment on column pgtrain.role_permissions.is_granted is 'False: taken away; the row stays so that a restored dump does not bring back what was seeded';
comment on column pgtrain.role_permissions.created_at is 'When made';
comment on column pgtrain.role_permissions.updated_at is 'When last changed';

create table pgtrain.user_roles (
    id bigint generated always as identity primary key,
    user_id bigint not null references pgtrain.users on delete cascade,
    role_id bigint not null references pgtrain.roles on delete restrict,
    assigned_by bigint references pgtrain.users on delete set null,
    assigned_at timestamptz not null default now(),
    expires_at timestamptz,
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (user_id, role_id)
);
create index user_roles_role_id_idx on pgtrain.user_roles (role_id);
create index user_roles_assigned_by_idx on pgtrain.user_roles (assigned_by);
comment on table pgtrain.user_roles is 'Roles of users';
comment on column pgtrain.user_roles.id is 'Key';
comment on column pgtrain.user_roles.user_id is 'User';
comment on column pgtrain.user_roles.role_id is 'Role';
comment on column pgtrain.user_roles.assigned_by is 'Who gave it, null for the server';
comment on column pgtrain.user_roles.assigned_at is 'When it was given';
comment on column pgtrain.user_roles.expires_at is 'End, null for never; honoured by every check';
comment on column pgtrain.user_roles.is_active is 'False: taken away; honoured by every check';
comment on column pgtrain.user_roles.created_at is 'When made';
comment on column pgtrain.user_roles.updated_at is 'When last changed';

create view pgtrain.role_grants with (security_invoker, security_barrier) as
    select r.name as role, p.action, p.entity, p.access, p.name as permission
      from pgtrain.roles r
      join pgtrain.role_permissions rp on rp.role_id = r.id and rp.is_granted
      join pgtrain.permissions p on p.id = rp.permission_id;
comment on view pgtrain.role_grants is 'What each role may do';

-- Seeds, merged from the three former systems; docs/security.md publishes the table and test/sql/rights.sql compares it.
-- "any" includes "own"; both are granted all the same, so that lists read plainly. Role admin is called administrator too.
insert into pgtrain.roles (id, name, description, is_system_role) overriding system value values
    (1, 'superuser', 'Everything', true),
    (2, 'admin', 'Administration of the platform (administrator)', true),
    (3, 'premium', 'Paying user', true),
    (4, 'user', 'Ordinary user; given at registration', true),
    (5, 'developer', 'Programs against the interfaces', true);

-- An entity for each kind of thing that somebody can own or administer; test/sql/rights.sql looks for tables without one.
insert into pgtrain.permissions (id, action, entity, access, description) overriding system value
select row_number() over (order by e.n, a.n, x.access),
       a.action, e.entity, x.access,
       format('%s %s %s', initcap(a.action), case x.access when 'own' then 'own' else 'anybody''s' end, e.entity)
  from unnest(array['admin', 'users', 'training', 'datasets', 'models', 'minions', 'spirits', 'api', 'nodes', 'images', 'instances', 'limits',
                    'billing', 'secrets', 'providers', 'invites', 'audit']) with ordinality e (entity, n)
 cross join (values (1, 'access'), (2, 'read'), (3, 'create'), (4, 'update'), (5, 'delete'), (6, 'chat')) a (n, action)
 cross join unnest(enum_range(null::pgtrain.permission_access)) x (access)
 where (a.action <> 'access' or e.entity = 'admin') and (a.action <> 'chat' or e.entity = 'models')
   and (e.entity <> 'audit' or a.action = 'read');  -- written by the functions themselves, changed by nobody

insert into pgtrain.role_permissions (id, role_id, permission_id) overriding system value
select r.id * 1000 + p.id, r.id, p.id
  from pgtrain.roles r, pgtrain.permissions p
 where r.name in ('superuser', 'admin')
    or p.access = 'own' and exists (
        select from (values
            ('{user,premium}'::text[], '{users,training,datasets,models,nodes,images,instances,api,secrets,providers}'::text[], '{read,create,update,delete}'::text[]),
            ('{user,premium}', '{billing}', '{read,update}'),
            ('{user,premium,developer}', '{limits,audit}', '{read}'),
            ('{premium}', '{minions,spirits}', '{read,create,update}'),
            ('{developer}', '{users}', '{read}'),
            ('{developer}', '{training,models,api,secrets}', '{read,create,update}'),
            ('{developer}', '{providers}', '{read,create,update,delete}')) g (roles, entities, actions)
         where r.name = any (g.roles) and p.entity = any (g.entities) and p.action = any (g.actions));

create trigger merge_seed before insert on pgtrain.roles for each row execute function pgtrain_private.merge_seed('id');
create trigger merge_seed before insert on pgtrain.permissions for each row execute function pgtrain_private.merge_seed('id');
create trigger merge_seed before insert on pgtrain.role_permissions for each row execute function pgtrain_private.merge_seed('id');

create trigger rights_changed after insert or update or delete or truncate on pgtrain.roles
    for each statement execute function pgtrain_private.rights_changed();
create trigger rights_changed after insert or update or delete or truncate on pgtrain.permissions
    for each statement execute function pgtrain_private.rights_changed();
create trigger rights_changed after insert or update or delete or truncate on pgtrain.role_permissions
    for each statement execute function pgtrain_private.rights_changed();
create trigger rights_changed after insert or update or delete or truncate on pgtrain.user_roles
    for each statement execute function pgtrain_private.rights_changed();
alter table pgtrain.roles enable always trigger rights_changed;
alter table pgtrain.permissions enable always trigger rights_changed;
alter table pgtrain.role_permissions enable always trigger rights_changed;
alter table pgtrain.user_roles enable always trigger rights_changed;

select pgtrain_private.protect_table('roles', null, null);
select pgtrain_private.protect_table('permissions', null, null);
select pgtrain_private.protect_table('role_permissions', null, null);
select pgtrain_private.protect_table('user_roles', 'user_id', 'users');
