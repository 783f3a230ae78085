-- Entities: every box of the three diagrams and every attribute of it has its home in the catalogue. L, M and C are the diagrams;
-- an attribute in brackets is a line between boxes. The same map in words: docs/entities.md.
\pset format unaligned
\pset tuples_only on
set client_min_messages = warning;
create temp table homes (box text, attribute text, home text);
insert into homes
select box, split_part(pair, '=', 1), split_part(pair, '=', 2)
  from (values
    ('L.User', 'id=users.id email=users.email name=users.name createdAt=users.created_at updatedAt=users.updated_at'),
    ('L.Invite', 'id=invites.id createdAt=invites.created_at updatedAt=invites.updated_at expiresAt=invites.expires_at'),
    ('L.Training', 'id=trainings.id name=trainings.name config=trainings.config triggerWord=trainings.trigger_word baseModel=trainings.base_model createdAt=trainings.created_at updatedAt=trainings.updated_at (owner)=trainings.owner_id'),
    ('L.TrainingRun', 'id=training_runs.id createdAt=training_runs.created_at updatedAt=training_runs.updated_at status=training_runs.status (training)=training_runs.training_id (imageGroup)=training_runs.image_group_id (gpu)=run_attempts.device_id'),
    ('L.TrainingTask', 'id=training_tasks.id task=training_tasks.task status=training_tasks.status messageId=training_tasks.message_id startedAt=training_tasks.started_at completedAt=training_tasks.completed_at dataJson=training_tasks.data runId=training_tasks.training_run_id createdAt=training_tasks.created_at updatedAt=training_tasks.updated_at'),
    ('L.TrainingStatus', 'id=training_statuses.id status=training_statuses.status dataJson=training_statuses.data createdAt=training_statuses.created_at updatedAt=training_statuses.created_at (run)=training_statuses.training_run_id'),
    ('L.TrainingImage', 'id=training_images.id text=training_images.text url=training_images.url name=training_images.name type=training_images.type isResized=training_images.is_resized createdAt=training_images.created_at updatedAt=training_images.updated_at (training)=training_images.training_id'),
    ('L.ImageGroup', 'id=image_groups.id name=image_groups.name createdAt=image_groups.created_at updatedAt=image_groups.updated_at (training)=image_groups.training_id'),
    ('L.ImageSize', 'isResized=image_sizes.is_resized url=image_sizes.url width=image_sizes.width height=image_sizes.height x=image_sizes.x y=image_sizes.y createdAt=image_sizes.created_at updatedAt=image_sizes.updated_at text=image_sizes.text (image)=image_sizes.image_id (imageGroup)=image_sizes.image_group_id'),
    ('L.Password', 'hash=passwords.hash (user)=passwords.user_id'),
    ('L.Session', 'id=sessions.id expirationDate=sessions.expires_at createdAt=sessions.created_at updatedAt=sessions.updated_at (user)=sessions.user_id'),
    ('L.Permission', 'id=permissions.id action=permissions.action entity=permissions.entity access=permissions.access description=permissions.description createdAt=permissions.created_at updatedAt=permissions.updated_at'),
    ('L.Role', 'id=roles.id name=roles.name description=roles.description createdAt=roles.created_at updatedAt=roles.updated_at (users)=user_roles.user_id (permissions)=role_permissions.permission_id'),
    ('L.Verification', 'id=verifications.id createdAt=verifications.created_at type=verifications.type target=verifications.target secret=verifications.secret algorithm=verifications.algorithm digits=verifications.digits period=verifications.period_seconds charSet=verifications.char_set expiresAt=verifications.expires_at'),
    ('L.Connection', 'id=connections.id providerName=connections.provider_name providerId=connections.provider_id createdAt=connections.created_at updatedAt=connections.updated_at (user)=connections.user_id'),
    ('L.Gpu', 'id=gpus.id instanceId=gpus.instance_id status=gpus.status createdAt=gpus.created_at updatedAt=gpus.updated_at trainingRunId=gpus.training_run_id'),
    ('M.users', 'id=users.id username=users.username email=users.email password_hash=passwords.hash first_name=users.first_name last_name=users.last_name avatar_url=users.avatar_url is_active=users.is_active is_verified=users.is_verified email_verification_token=verifications.secret password_reset_token=verifications.secret password_reset_expires=verifications.expires_at last_login=users.last_login_at created_at=users.created_at updated_at=users.updated_at subscription_status=user_subscriptions.status subscription_expires=user_subscriptions.current_period_end trial_ends_at=users.trial_ends_at payment_customer_id=users.payment_customer_id metadata=users.metadata'),
    ('M.roles', 'id=roles.id name=roles.name description=roles.description is_system_role=roles.is_system_role created_at=roles.created_at'),
    ('M.permissions', 'id=permissions.id name=permissions.name resource=permissions.entity action=permissions.action description=permissions.description created_at=permissions.created_at'),
    ('M.user_roles', 'id=user_roles.id user_id=user_roles.user_id role_id=user_roles.role_id assigned_by=user_roles.assigned_by assigned_at=user_roles.assigned_at expires_at=user_roles.expires_at is_active=user_roles.is_active'),
    ('M.role_permissions', 'id=role_permissions.id role_id=role_permissions.role_id permission_id=role_permissions.permission_id created_at=role_permissions.created_at'),
    ('M.sessions', 'id=sessions.id user_id=sessions.user_id session_token=sessions.token_hash refresh_token=sessions.refresh_token_hash expires_at=sessions.expires_at created_at=sessions.created_at last_accessed=sessions.last_accessed_at ip_address=sessions.ip_address user_agent=sessions.user_agent is_active=sessions.is_active'),
    ('M.user_subscriptions', 'id=user_subscriptions.id user_id=user_subscriptions.user_id subscription_id=user_subscriptions.subscription_id plan_name=plans.name plan_type=plans.type status=user_subscriptions.status current_period_start=user_subscriptions.current_period_start current_period_end=user_subscriptions.current_period_end trial_start=user_subscriptions.trial_start trial_end=user_subscriptions.trial_end cancel_at_period_end=user_subscriptions.cancel_at_period_end cancelled_at=user_subscriptions.cancelled_at created_at=user_subscriptions.created_at updated_at=user_subscriptions.updated_at metadata=user_subscriptions.metadata'),
    ('M.payment_history', 'id=payment_history.id user_id=payment_history.user_id subscription_id=payment_history.subscription_id payment_intent_id=payment_history.payment_intent_id amount=payment_history.amount currency=payment_history.currency status=payment_history.status payment_method=payment_history.payment_method created_at=payment_history.created_at metadata=payment_history.metadata'),
    ('M.user_usage_limits', 'id=user_usage_limits.id user_id=user_usage_limits.user_id resource_type=user_usage_limits.resource_type limit_value=user_usage_limits.limit_value used_value=user_usage_limits.used_value reset_period=user_usage_limits.reset_period reset_date=user_usage_limits.reset_at created_at=user_usage_limits.created_at updated_at=user_usage_limits.updated_at'),
    ('M.models', 'id=models.id name=models.name display_name=models.display_name description=models.description provider=models.provider model_id=models.model_id model_type=models.model_type capabilities=models.capabilities parameters=models.parameters context_length=models.context_length max_tokens=models.max_tokens temperature=models.temperature top_p=models.top_p system_prompt=models.system_prompt is_active=models.is_active is_favorite=favorites.entity_id tags=models.tags metadata=models.metadata created_at=models.created_at updated_at=models.updated_at'),
    ('M.reference_models', 'id=reference_models.id name=reference_models.name display_name=reference_models.display_name description=reference_models.description model_type=reference_models.model_type provider=reference_models.provider model_id=reference_models.model_id base_url=reference_models.base_url temperature=reference_models.temperature top_p=reference_models.top_p max_tokens=reference_models.max_tokens stream=reference_models.stream capabilities=reference_models.capabilities parameters=reference_models.parameters context_length=reference_models.context_length system_prompt=reference_models.system_prompt is_active=reference_models.is_active is_favorite=reference_models.is_favorite tags=reference_models.tags metadata=reference_models.metadata created_at=reference_models.created_at updated_at=reference_models.updated_at'),
    ('M.datasets', 'id=datasets.id name=datasets.name description=datasets.description dataset_id=datasets.dataset_id type=datasets.type sample_count=datasets.sample_count loaded_samples=datasets.loaded_samples size=datasets.size_bytes format=datasets.format license=datasets.license tags=datasets.tags is_favorite=favorites.entity_id is_public=datasets.is_public created_at=datasets.created_at last_modified=datasets.updated_at source=datasets.source metadata=datasets.metadata'),
    ('M.user_training_datasets', 'id=user_training_datasets.id user_id=user_training_datasets.user_id name=user_training_datasets.name description=user_training_datasets.description dataset_type=user_training_datasets.dataset_type file_path=user_training_datasets.file_path sample_count=user_training_datasets.sample_count metadata=user_training_datasets.metadata is_active=user_training_datasets.is_active created_at=user_training_datasets.created_at updated_at=user_training_datasets.updated_at'),
    ('M.training_jobs', 'id=training_jobs.id name=training_jobs.name description=training_jobs.description job_type=training_jobs.job_type custom_capabilities=training_jobs.custom_capabilities maker=training_jobs.maker version=training_jobs.version base_model=training_jobs.base_model model_name=training_jobs.model_name dataset_id=training_jobs.dataset_id status=training_jobs.status training_type=training_jobs.training_type progress=training_jobs.progress metrics=training_jobs.metrics temperature=training_jobs.temperature top_p=training_jobs.top_p context_length=training_jobs.context_length created_at=training_jobs.created_at started_at=training_jobs.started_at completed_at=training_jobs.completed_at'),
    ('M.external_training_jobs', 'id=external_training_jobs.id user_id=external_training_jobs.user_id minion_id=external_training_jobs.minion_id job_name=external_training_jobs.job_name description=external_training_jobs.description provider=external_training_jobs.provider model_name=external_training_jobs.model_name training_type=external_training_jobs.training_type status=external_training_jobs.status progress=external_training_jobs.progress config=external_training_jobs.config error_message=external_training_jobs.error_message started_at=external_training_jobs.started_at completed_at=external_training_jobs.completed_at created_at=external_training_jobs.created_at updated_at=external_training_jobs.updated_at metrics=external_training_jobs.metrics xp_gained=external_training_jobs.xp_gained level_up_info=external_training_jobs.level_up_info'),
    ('M.training_job_datasets', 'id=training_run_datasets.id training_job_id=training_run_datasets.training_run_id dataset_id=training_run_datasets.dataset_id'),
    ('M.model_profiles', 'id=model_profiles.id model_name=model_profiles.model_name training_job_id=model_profiles.training_run_id avatar_path=model_profiles.avatar_path avatar_url=model_profiles.avatar_url created_at=model_profiles.created_at updated_at=model_profiles.updated_at'),
    ('M.evaluations', 'id=evaluations.id model_name=evaluations.model_name dataset_id=evaluations.dataset_id evaluation_type=evaluations.evaluation_type before_metrics=evaluations.before_metrics after_metrics=evaluations.after_metrics improvement=evaluations.improvement created_at=evaluations.created_at notes=evaluations.notes'),
    ('M.migration_log', 'id=migration_log.id migration_name=migration_log.migration_name executed_at=migration_log.executed_at status=migration_log.status'),
    ('C.user', 'id=users.id name=users.name phone=users.phone email=users.email instance_limit=user_usage_limits.limit_value node_limit=user_usage_limits.limit_value password_hash=passwords.hash password_salt=passwords.hash permission=user_roles.role_id retry_count=users.failed_login_count activated=users.activated_at email_confirmation_hash=verifications.secret email_confirmation_expires=verifications.expires_at code_confirmation=verifications.secret code_confirmation_expires=verifications.expires_at created_at=users.created_at'),
    ('C.ssh_key', 'id=ssh_keys.id key=ssh_keys.key name=ssh_keys.name created_at=ssh_keys.created_at (user)=ssh_keys.user_id'),
    ('C.api_key', 'id=api_keys.id hash=api_keys.hash salt=api_keys.hash name=api_keys.name created_at=api_keys.created_at (user)=api_keys.user_id'),
    ('C.compute_node', 'id=compute_nodes.id arch=compute_nodes.arch available_as_gpu_node=compute_nodes.is_gpu_node cpu=compute_nodes.cpu_count cpu_info=compute_nodes.cpu_info free_storage=compute_nodes.free_storage_bytes gpu=compute_nodes.has_gpu gpu_driver=compute_nodes.gpu_driver gpu_info=compute_nodes.gpu_info ipv4=compute_nodes.ipv4 ipv4_ports=compute_nodes.ipv4_ports ipv6=compute_nodes.ipv6 ipv6_ports=compute_nodes.ipv6_ports manipulator_driver=compute_nodes.manipulator_driver memory=compute_nodes.memory_bytes name=compute_nodes.name nvidia_docker=compute_nodes.has_nvidia_docker platform=compute_nodes.platform status=compute_nodes.status total_storage=compute_nodes.total_storage_bytes use_ipv4=compute_nodes.use_ipv4 use_ipv6=compute_nodes.use_ipv6 updated_at=compute_nodes.updated_at created_at=compute_nodes.created_at (user)=compute_nodes.owner_id'),
    ('C.image', 'id=instance_images.id name=instance_images.name status=instance_images.status key=instance_images.key url=instance_images.url remote=instance_images.remote size=instance_images.size_bytes os_hint=instance_images.os_hint description=instance_images.description published=instance_images.is_published native_timestamp=instance_images.native_created_at created_at=instance_images.created_at (compute_node)=instance_images.node_id'),
    ('C.instance', 'id=instances.id name=instances.name key=instances.key ipv4=instances.ipv4 ipv6=instances.ipv6 local_ipv4=instances.local_ipv4 local_ipv6=instances.local_ipv6 cpu=instances.cpu_count memory=instances.memory_bytes storage=instances.storage_bytes total_storage=instances.total_storage_bytes status=instances.status status_info=instances.status_info description=instances.description network_mode=instances.network_mode ssh_key_name=instances.ssh_key_name ssh_key=instances.ssh_key base_image=instances.base_image created_at=instances.created_at updated_at=instances.updated_at (compute_node)=instances.node_id (image)=instances.image_id'),
    ('C.managed_compute_node', 'id=managed_compute_nodes.id created_at=managed_compute_nodes.created_at (compute_node)=managed_compute_nodes.node_id (user)=managed_compute_nodes.user_id'),
    ('C.managed_image', 'id=managed_images.id created_at=managed_images.created_at (compute_node)=instance_images.node_id (user)=managed_images.user_id (image)=managed_images.image_id'),
    ('C.managed_instance', 'id=managed_instances.id created_at=managed_instances.created_at (compute_node)=instances.node_id (user)=managed_instances.user_id (instance)=managed_instances.instance_id'),
    ('C.port_map', 'id=port_maps.id is_ipv4=port_maps.family is_ipv6=port_maps.family managed=port_maps.is_managed name=port_maps.name port=port_maps.port protocol=port_maps.protocol created_at=port_maps.created_at (compute_node)=port_maps.node_id (instance)=port_maps.instance_id'),
    ('C.log', 'id=audit_log.id title=audit_log.title description=audit_log.description host=audit_log.host ip=audit_log.ip timestamp=audit_log.created_at')
  ) v (box, pairs), regexp_split_to_table(v.pairs, ' ') pair;

\echo '# Boxes by diagram, and attributes'
select left(box, 1), count(distinct box), count(*) from homes group by 1 order by 1;
\echo '# Attributes without a home (there are none)'
select box, attribute, home from homes
 where not exists (select from pg_attribute a join pg_class c on c.oid = a.attrelid
                    where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'v', 'p')
                      and c.relname = split_part(home, '.', 1) and a.attname = split_part(home, '.', 2) and not a.attisdropped)
 order by 1, 2;

-- Rules of the map: keys, times, money, sizes.
\echo '# Exceptions to the rules of the map (there are none)'
\echo 'key id that is no identity:'
select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'id'
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and not (a.attidentity = 'a' and a.atttypid = 'bigint'::regtype);
\echo 'time that is not timestamptz, or timestamptz that does not end in _at (but for the periods of a subscription and locked_until):'
select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0
   and (a.atttypid in ('timestamp'::regtype, 'date'::regtype) or (a.attname like '%\_at' and a.atttypid <> 'timestamptz'::regtype)
        or (a.atttypid = 'timestamptz'::regtype and a.attname not like '%\_at' and c.relname <> 'user_subscriptions' and a.attname <> 'locked_until') or a.atttypid in ('json'::regtype, 'money'::regtype));
\echo 'owned table without created_at:'
select distinct c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid
 where c.relnamespace = 'pgtrain'::regnamespace and c.relkind in ('r', 'p') and a.attname in ('owner_id', 'user_id')
   and c.relname <> 'training_run_datasets'  -- written in one go with its run
   and not exists (select from pg_attribute x where x.attrelid = c.oid and x.attname in ('created_at', 'started_at', 'recorded_at')) order by 1;
\echo 'foreign key without an index:'
select k.conrelid::regclass, k.conname from pg_constraint k
 where k.contype = 'f' and k.connamespace = 'pgtrain'::regnamespace
   and not exists (select from pg_index i where i.indrelid = k.conrelid and i.indkey[0] = k.conkey[1]) order by 1, 2;

-- Not here yet, so that nobody looks for them:
--   M.minions: domain minions
--   M.profiles: domain minions
--   M.external_api_models: its model half is models (kind external); the view and the progression come with domain minions
--   M.models.experience, M.models.level: domain minions
--   M.reference_models.api_key: domain secrets
--   M.provider_capabilities, M.provider_groups, M.user_provider_configs, M.user_api_keys, M.provider_usage_logs, M.provider_test_results: domain providers
--   C.test_a, C.test_b: fixture of a model test; made and dropped below

-- C.test_a and C.test_b, that system's own model test: one to many, with a big integer. Ours to create and drop.
create temp table test_a (id bigint generated always as identity primary key, title text, description text, big_int bigint, "timestamp" timestamptz not null default now());
create temp table test_b (id bigint generated always as identity primary key, title text, description text, "timestamp" timestamptz not null default now(),
    test_a_id bigint references test_a on delete cascade);
insert into test_a (title, big_int) values ('a', 9223372036854775807);
insert into test_b (title, test_a_id) select 'b' || n, a.id from test_a a, generate_series(1, 3) n;
select a.title, a.big_int, count(*) from test_a a join test_b b on b.test_a_id = a.id group by a.id;
delete from test_a;
select count(*) from test_b;
drop table test_b, test_a;
