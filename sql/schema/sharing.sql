-- Sharing: images and instances on users' machines, their ports, and the grants by which an owner lets another user use a machine, an
-- image, an instance or a model. A grant shows its row through row security until it expires or is revoked; only functions write grants.

create type pgtrain.image_status as enum ('initializing', 'ready', 'failed');
comment on type pgtrain.image_status is 'Whether instances can be made of an image';
create type pgtrain.instance_status as enum ('initializing', 'running', 'stopped', 'deleting', 'dead');
comment on type pgtrain.instance_status is 'What an instance does, or is wanted to do';
create type pgtrain.network_family as enum ('ipv4', 'ipv6');
comment on type pgtrain.network_family is 'Version of the Internet protocol';
create type pgtrain.network_protocol as enum ('tcp', 'udp');
comment on type pgtrain.network_protocol is 'Protocol of a port';

create table pgtrain.instance_images (
    id bigint generated always as identity primary key,
    node_id bigint not null references pgtrain.compute_nodes on delete cascade,
    owner_id bigint not null references pgtrain.users on delete cascade,
    name text check (length(name) between 1 and 255),
    status pgtrain.image_status not null default 'initializing',
    status_text text not null default '',
    key text,
    url text,
    remote text,
    size_bytes bigint check (size_bytes >= 0),
    os_hint text,
    description text,
    is_published boolean not null default false,
    native_created_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (id, owner_id)
);
create unique index instance_images_node_id_key_key on pgtrain.instance_images (node_id, (key || ''));
create index instance_images_owner_id_idx on pgtrain.instance_images (owner_id);
comment on table pgtrain.instance_images is 'Images on machines, of which instances are made';
comment on column pgtrain.instance_images.id is 'Key';
comment on column pgtrain.instance_images.node_id is 'Machine it is on';
comment on column pgtrain.instance_images.owner_id is 'User who fetched it';
comment on column pgtrain.instance_images.name is 'Name to show';
comment on column pgtrain.instance_images.status is 'Whether it can be used';
comment on column pgtrain.instance_images.status_text is 'What its machine says of it';
comment on column pgtrain.instance_images.key is 'Its identity on the machine';
comment on column pgtrain.instance_images.url is 'Where it was fetched from';
comment on column pgtrain.instance_images.remote is 'Registry that offers it';
comment on column pgtrain.instance_images.size_bytes is 'Size on the disk';
comment on column pgtrain.instance_images.os_hint is 'Operating system within';
comment on column pgtrain.instance_images.description is 'In words';
comment on column pgtrain.instance_images.is_published is 'Whether everyone who may use the machine may use it';
comment on column pgtrain.instance_images.native_created_at is 'When it was built, as it says itself';
comment on column pgtrain.instance_images.created_at is 'When made';
comment on column pgtrain.instance_images.updated_at is 'When last changed';

create table pgtrain.instances (
    id bigint generated always as identity primary key,
    node_id bigint not null references pgtrain.compute_nodes on delete cascade,
    owner_id bigint not null references pgtrain.users on delete cascade,
    image_id bigint references pgtrain.instance_images on delete set null,
    ssh_key_id bigint references pgtrain.ssh_keys on delete set null,
    name text not null check (name ~ '^[A-Za-z0-9_-]{3,32}$'),
    key text,
    status pgtrain.instance_status not null default 'initializing',
    intended_status pgtrain.instance_status not null default 'running',
    status_info text not null default '',
    ipv4 inet check (family(ipv4) = 4),
    ipv6 inet check (family(ipv6) = 6),
    local_ipv4 inet check (family(local_ipv4) = 4),
    local_ipv6 inet check (family(local_ipv6) = 6),
    cpu_count real check (cpu_count > 0),
    memory_bytes bigint check (memory_bytes > 0),
    storage_bytes bigint check (storage_bytes >= 0),
    total_storage_bytes bigint check (total_storage_bytes > 0),
    description text,
    network_mode text not null default 'host' check (network_mode in ('host', 'bridge')),
    ssh_key_name text,
    ssh_key text,
    base_image text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (id, owner_id)
);
create unique index instances_node_id_key_key on pgtrain.instances (node_id, (key || ''));
create unique index instances_node_id_name_key on pgtrain.instances (node_id, (name || ''));
create index instances_owner_id_idx on pgtrain.instances (owner_id);
create index instances_image_id_idx on pgtrain.instances (image_id);
create index instances_ssh_key_id_idx on pgtrain.instances (ssh_key_id);
comment on table pgtrain.instances is 'Containers of users on machines';
comment on column pgtrain.instances.id is 'Key';
comment on column pgtrain.instances.node_id is 'Machine it is on';
comment on column pgtrain.instances.owner_id is 'User who made it';
comment on column pgtrain.instances.image_id is 'Image it was made of, null when that is gone';
comment on column pgtrain.instances.ssh_key_id is 'Key that opens it, null when that is gone';
comment on column pgtrain.instances.name is 'Name, unique on its machine';
comment on column pgtrain.instances.key is 'Its identity on the machine';
comment on column pgtrain.instances.status is 'What it does';
comment on column pgtrain.instances.intended_status is 'What its owner wants it to do';
comment on column pgtrain.instances.status_info is 'What its machine says of it';
comment on column pgtrain.instances.ipv4 is 'Address, version 4';
comment on column pgtrain.instances.ipv6 is 'Address, version 6';
comment on column pgtrain.instances.local_ipv4 is 'Address within its machine, version 4';
comment on column pgtrain.instances.local_ipv6 is 'Address within its machine, version 6';
comment on column pgtrain.instances.cpu_count is 'Processors it may use, null for all';
comment on column pgtrain.instances.memory_bytes is 'Memory it may use, null for all';
comment on column pgtrain.instances.storage_bytes is 'Disk it uses';
comment on column pgtrain.instances.total_storage_bytes is 'Disk it may use, null for all';
comment on column pgtrain.instances.description is 'In words';
comment on column pgtrain.instances.network_mode is 'host: the ports of the machine; bridge: a network of its own';
comment on column pgtrain.instances.ssh_key_name is 'Name of the key when it was made';
comment on column pgtrain.instances.ssh_key is 'Public key that was put on it';
comment on column pgtrain.instances.base_image is 'Name of the image when it was made';
comment on column pgtrain.instances.created_at is 'When made';
comment on column pgtrain.instances.updated_at is 'When last changed';

create table pgtrain.port_maps (
    id bigint generated always as identity primary key,
    node_id bigint not null references pgtrain.compute_nodes on delete cascade,
    instance_id bigint,
    owner_id bigint not null references pgtrain.users on delete cascade,
    family pgtrain.network_family not null default 'ipv4',
    protocol pgtrain.network_protocol not null default 'tcp',
    port integer not null check (port between 1 and 65535),
    name text,
    is_managed boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (node_id, family, protocol, port),
    foreign key (instance_id, owner_id) references pgtrain.instances (id, owner_id) on update cascade on delete cascade
);
create index port_maps_owner_id_idx on pgtrain.port_maps (owner_id);
create index port_maps_instance_id_idx on pgtrain.port_maps (instance_id, owner_id);
comment on table pgtrain.port_maps is 'Ports of machines that are reserved for instances';
comment on column pgtrain.port_maps.id is 'Key';
comment on column pgtrain.port_maps.node_id is 'Machine';
comment on column pgtrain.port_maps.instance_id is 'Instance that listens there, null for the machine itself';
comment on column pgtrain.port_maps.owner_id is 'Owner of the instance, or of the machine';
comment on column pgtrain.port_maps.family is 'Version of the Internet protocol';
comment on column pgtrain.port_maps.protocol is 'Protocol';
comment on column pgtrain.port_maps.port is 'Port';
comment on column pgtrain.port_maps.name is 'What it is for';
comment on column pgtrain.port_maps.is_managed is 'False: taken by something else on the machine';
comment on column pgtrain.port_maps.created_at is 'When made';
comment on column pgtrain.port_maps.updated_at is 'When last changed';

-- The owner is repeated in a grant and kept true by its foreign key, so that its policy asks no other table.
create function pgtrain_private.create_grant_table(table_name name, of_table name, key_column name, entity text, thing text) returns void
    language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    execute format('create table pgtrain.%1$I (
        id bigint generated always as identity primary key,
        %3$I bigint not null references pgtrain.%2$I on delete cascade,
        user_id bigint not null references pgtrain.users on delete cascade,
        owner_id bigint,
        granted_by bigint references pgtrain.users on delete set null,
        expires_at timestamptz,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now(),
        unique (user_id, %3$I),
        foreign key (%3$I, owner_id) references pgtrain.%2$I (id, owner_id) on update cascade on delete cascade)', table_name, of_table, key_column);
    execute format('create index %1$I on pgtrain.%2$I (%3$I, owner_id)', table_name || '_' || key_column || '_idx', table_name, key_column);
    execute format('create index %1$I on pgtrain.%2$I (owner_id)', table_name || '_owner_id_idx', table_name);
    execute format('create index %1$I on pgtrain.%2$I (granted_by)', table_name || '_granted_by_idx', table_name);
    execute format('comment on table pgtrain.%I is %L', table_name, 'Users who may use ' || thing || ' of another');
    execute format('comment on column pgtrain.%I.id is %L', table_name, 'Key');
    execute format('comment on column pgtrain.%I.%I is %L', table_name, key_column, 'What he may use');
    execute format('comment on column pgtrain.%I.user_id is %L', table_name, 'User who may');
    execute format('comment on column pgtrain.%I.owner_id is %L', table_name, 'Owner, null for the server');
    execute format('comment on column pgtrain.%I.granted_by is %L', table_name, 'Who granted it, null for the server');
    execute format('comment on column pgtrain.%I.expires_at is %L', table_name, 'End, null for never; honoured by every check');
    execute format('comment on column pgtrain.%I.created_at is %L', table_name, 'When made');
    execute format('comment on column pgtrain.%I.updated_at is %L', table_name, 'When last changed');
    perform pgtrain_private.protect_table(table_name, 'user_id', entity);
    execute format('create policy read_of_owner on pgtrain.%I for select using (pgtrain_private.in_scope(owner_id, (select pgtrain_private.owner_scope(''read'', %L))))',
                   table_name, entity);
    execute format('create policy shared_read on pgtrain.%2$I for select
        using (id = any (array(select m.%3$I from pgtrain.%1$I m
                                where m.user_id = (select pgtrain.current_user_id()) and (m.expires_at is null or m.expires_at > clock_timestamp())))
               and (select pgtrain.has_permission(''read'', %4$L)))', table_name, of_table, key_column, entity);
end $$;

select pgtrain_private.protect_table('instance_images', 'owner_id', 'images');
select pgtrain_private.protect_table('instances', 'owner_id', 'instances');
select pgtrain_private.protect_table('port_maps', 'owner_id', 'instances');
select pgtrain_private.create_grant_table('managed_compute_nodes', 'compute_nodes', 'node_id', 'nodes', 'a machine');
select pgtrain_private.create_grant_table('managed_images', 'instance_images', 'image_id', 'images', 'an image');
select pgtrain_private.create_grant_table('managed_instances', 'instances', 'instance_id', 'instances', 'an instance');
select pgtrain_private.create_grant_table('managed_models', 'models', 'model_id', 'models', 'a model');
drop function pgtrain_private.create_grant_table(name, name, name, text, text);

-- Arrays in these policies are made once a statement, and an index serves them.
create policy read_of_node_owner on pgtrain.instance_images for select
    using (node_id = any (array(select n.id from pgtrain.compute_nodes n where n.owner_id = (select pgtrain.current_user_id())))
           and (select pgtrain.has_permission('read', 'images')));
create policy read_of_node_owner on pgtrain.instances for select
    using (node_id = any (array(select n.id from pgtrain.compute_nodes n where n.owner_id = (select pgtrain.current_user_id())))
           and (select pgtrain.has_permission('read', 'instances')));
create policy read_of_node_owner on pgtrain.port_maps for select
    using (node_id = any (array(select n.id from pgtrain.compute_nodes n where n.owner_id = (select pgtrain.current_user_id())))
           and (select pgtrain.has_permission('read', 'instances')));
create policy published_read on pgtrain.instance_images for select
    using (is_published
           and node_id = any (array(select m.node_id from pgtrain.managed_compute_nodes m
                                     where m.user_id = (select pgtrain.current_user_id()) and (m.expires_at is null or m.expires_at > clock_timestamp())))
           and (select pgtrain.has_permission('read', 'images')));
create policy shared_read on pgtrain.port_maps for select
    using (instance_id = any (array(select m.instance_id from pgtrain.managed_instances m
                                     where m.user_id = (select pgtrain.current_user_id()) and (m.expires_at is null or m.expires_at > clock_timestamp())))
           and (select pgtrain.has_permission('read', 'instances')));
