-- Compute: the machines and devices that runs are executed on. Rows are written by the workers; nobody else changes them.
-- A device is a CUDA GPU or a share of the CPU; which database uses it at a moment is decided in shared memory.

create type pgtrain.node_status as enum ('initializing', 'activated', 'dead');
comment on type pgtrain.node_status is 'Whether a machine takes runs';
create type pgtrain.device_kind as enum ('cpu', 'cuda');
comment on type pgtrain.device_kind is 'What a device is';
create type pgtrain.device_status as enum ('idle', 'running', 'gone');
comment on type pgtrain.device_status is 'idle: has a worker and nothing to do; running: trains; gone: no longer found or without a worker';

create type pgtrain.gpu_driver as enum ('cuda', 'rocm');
comment on type pgtrain.gpu_driver is 'How the GPUs of a machine are reached';

create table pgtrain.compute_nodes (
    id bigint generated always as identity primary key,
    owner_id bigint references pgtrain.users on delete cascade,
    name text not null check (length(name) between 1 and 255),
    status pgtrain.node_status not null default 'initializing',
    status_text text not null default '',
    arch text,
    platform text,
    cpu_count integer check (cpu_count > 0),
    cpu_info text,
    memory_bytes bigint check (memory_bytes > 0),
    total_storage_bytes bigint check (total_storage_bytes >= 0),
    free_storage_bytes bigint check (free_storage_bytes >= 0),
    has_gpu boolean,
    gpu_driver pgtrain.gpu_driver,
    gpu_info text,
    has_nvidia_docker boolean,
    is_gpu_node boolean generated always as (has_gpu and has_nvidia_docker) stored,
    manipulator_driver text,
    ipv4 inet check (family(ipv4) = 4),
    ipv4_ports jsonb not null default '{}' check (jsonb_typeof(ipv4_ports) = 'object'),
    use_ipv4 boolean not null default true,
    ipv6 inet check (family(ipv6) = 6),
    ipv6_ports jsonb not null default '{}' check (jsonb_typeof(ipv6_ports) = 'object'),
    use_ipv6 boolean not null default false,
    last_contact_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (id, owner_id)  -- what grants refer to
);
-- A user's machine can never take the place of the server's own, whatever it is called.
create unique index compute_nodes_name_key on pgtrain.compute_nodes ((name || '')) where owner_id is null;
create unique index compute_nodes_owner_id_name_key on pgtrain.compute_nodes (owner_id, (name || ''));
comment on table pgtrain.compute_nodes is 'Machines that execute runs and instances; the row of this server is written by its scheduler';
comment on column pgtrain.compute_nodes.id is 'Key; below 0 for the server''s own machine';
comment on column pgtrain.compute_nodes.owner_id is 'User who brought it, null for the server''s own';
comment on column pgtrain.compute_nodes.name is 'Host name';
comment on column pgtrain.compute_nodes.status is 'Whether it takes runs';
comment on column pgtrain.compute_nodes.status_text is 'What was found on it, and why not more';
comment on column pgtrain.compute_nodes.arch is 'Architecture of its processors';
comment on column pgtrain.compute_nodes.platform is 'Operating system';
comment on column pgtrain.compute_nodes.cpu_count is 'Processors';
comment on column pgtrain.compute_nodes.cpu_info is 'Model of its processors';
comment on column pgtrain.compute_nodes.memory_bytes is 'Main memory';
comment on column pgtrain.compute_nodes.total_storage_bytes is 'Size of its disk';
comment on column pgtrain.compute_nodes.free_storage_bytes is 'Free on its disk';
comment on column pgtrain.compute_nodes.has_gpu is 'Whether it has a GPU, null for not known';
comment on column pgtrain.compute_nodes.gpu_driver is 'How its GPUs are reached';
comment on column pgtrain.compute_nodes.gpu_info is 'Models of its GPUs';
comment on column pgtrain.compute_nodes.has_nvidia_docker is 'Whether containers can be given its GPUs';
comment on column pgtrain.compute_nodes.is_gpu_node is 'Whether instances with a GPU can run on it';
comment on column pgtrain.compute_nodes.manipulator_driver is 'What makes instances on it, such as docker';
comment on column pgtrain.compute_nodes.ipv4 is 'Address, version 4';
comment on column pgtrain.compute_nodes.ipv4_ports is 'Ranges of ports that instances may have: {name: {protocol, range: [low, high]}}';
comment on column pgtrain.compute_nodes.use_ipv4 is 'Whether instances are reached at its address of version 4';
comment on column pgtrain.compute_nodes.ipv6 is 'Address, version 6';
comment on column pgtrain.compute_nodes.ipv6_ports is 'Ranges of ports of version 6, in the same form';
comment on column pgtrain.compute_nodes.use_ipv6 is 'Whether instances are reached at its address of version 6';
comment on column pgtrain.compute_nodes.last_contact_at is 'Last sign of life of its scheduler';
comment on column pgtrain.compute_nodes.created_at is 'When made';
comment on column pgtrain.compute_nodes.updated_at is 'When last changed';

create table pgtrain.devices (
    id bigint generated always as identity primary key,
    node_id bigint not null references pgtrain.compute_nodes on delete cascade,
    instance_id text not null unique,
    kind pgtrain.device_kind not null,
    selector text not null,
    name text not null,
    status pgtrain.device_status not null default 'idle',
    memory_bytes bigint not null check (memory_bytes >= 0),
    detail text not null default '',
    last_seen_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index devices_node_id_idx on pgtrain.devices (node_id);
comment on table pgtrain.devices is 'Devices found on the machines: CUDA GPUs, or shares of the CPU';
comment on column pgtrain.devices.id is 'Key';
comment on column pgtrain.devices.node_id is 'Machine it is in';
comment on column pgtrain.devices.instance_id is 'Stable identity: the UUID of a GPU, or the host name with the number of a CPU share';
comment on column pgtrain.devices.kind is 'What it is';
comment on column pgtrain.devices.selector is 'How the trainer is told to use it: cpu or cuda:N';
comment on column pgtrain.devices.name is 'Model name';
comment on column pgtrain.devices.status is 'What it does now';
comment on column pgtrain.devices.memory_bytes is 'Memory a run may use on it';
comment on column pgtrain.devices.detail is 'More that is known about it, or why it cannot be used';
comment on column pgtrain.devices.last_seen_at is 'When it was last found';
comment on column pgtrain.devices.created_at is 'When first found';
comment on column pgtrain.devices.updated_at is 'When last changed';

-- Not dumped: the server's own machine and what a machine has, which are found anew where the dump is restored. Attempts keep the
-- name of their device.
select pg_extension_config_dump('pgtrain.compute_nodes', 'where owner_id is not null');
select pg_extension_config_dump('pgtrain.compute_nodes_id_seq', '');
create trigger touch_updated_at before update on pgtrain.compute_nodes for each row execute function pgtrain_private.touch_updated_at();
create trigger touch_updated_at before update on pgtrain.devices for each row execute function pgtrain_private.touch_updated_at();
alter table pgtrain.compute_nodes enable row level security;
alter table pgtrain.compute_nodes force row level security;
-- The server's own machine has no owner and is no secret: whoever waits for a device may see what there is.
create policy read_in_reach on pgtrain.compute_nodes for select
    using (owner_id is null or pgtrain_private.in_scope(owner_id, (select pgtrain_private.owner_scope('read', 'nodes'))));
