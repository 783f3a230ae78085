# An account that is closed while its user is at work: his run stops, what he has queued does not start, and holding the locks on his own
# rows in a transaction that he leaves open does not keep an administrator from ending his sessions and keys.
use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use TrainTest;

my $node = start_server('closed', '');
sub query { return $node->safe_psql('postgres', $_[0]) }
my $ann = query("select id from pgtrain.users where username = 'ann'");

# A claim takes a run that waits, a closed account none of its.
my $running = submit($node, 'step_ms=50', ',"steps":10000');
ok(wait_for($node, "select step >= 1 from pgtrain.training_runs where id = $running", 't'), 'a run steps');
my @queued = map { submit($node, '') } 1 .. 3;
is(query("select pgtrain.deactivate_user($ann)"), 't', 'the account is closed');
ok(wait_status($node, $running, 'cancelled/cancelled_by_user', 10), 'the running run is cancelled');
ok(wait_status($node, $_, 'failed/permission_revoked', 20), 'a queued one does not start') for @queued;
is(query('select count(*) from pgtrain.run_attempts'), '1', 'none was tried');
nothing_left($node, 'after closing an account');
query("select pgtrain.activate_user($ann)");

# From here on nothing runs: a worker waits for no lock of ours, and so ends nobody who is held up.
set_server($node, 'pgtrain.lock_patience', '300ms');
# A psql of an application role that stays, with a transaction left open in it.
query("create role app login; select pgtrain.grant_application('app')");
sub open_session
{
	my ($sql) = @_;
	my $token = query("select session_token from pgtrain.login('ann', 'correct horse battery')");
	my $session = query("select id from pgtrain.sessions where token_hash = pgtrain_private.token_hash('$token')");
	$sql =~ s/SESSION/$session/;
	my ($in, $out) = ("select pgtrain.authenticate('$token', true) is not null;\nbegin;\n$sql;\n\\echo opened\n", '');
	my $handle = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' user=app' ], '<', \$in, '>', \$out, '2>&1', IPC::Run::timeout(60));
	$handle->pump until $out =~ /opened/;
	return { handle => $handle, in => \$in, out => \$out, id => $session };
}

# Whether the session still answers.
sub survives
{
	my ($session) = @_;
	${ $session->{in} } .= "\\echo asked\nselect 'alive';\n\\q\n";
	eval { $session->{handle}->finish };
	return ${ $session->{out} } =~ /asked\nalive/;
}

for my $case (
	[ 'his name', "update pgtrain.users set name = 'I stay'", 'deactivate_user(ID)', 0 ],
	[ 'his session', 'select pgtrain.revoke_session(SESSION)', 'deactivate_user(ID)', 0 ],
	[ 'his session', 'select pgtrain.revoke_session(SESSION)', 'revoke_all_sessions(ID) > 0', 0 ],
	[ 'his session', 'select pgtrain.revoke_session(SESSION)', 'revoke_session(SESSION)', 0 ],
	[ 'his API key', 'select pgtrain.revoke_api_key(KEY)', 'revoke_api_key(KEY)', 0 ],
	[ 'a new API key', "select id from pgtrain.create_api_key('new')", 'deactivate_user(ID)', 1 ])
{
	my ($what, $hold, $act, $survives) = @$case;
	my $key = query("insert into pgtrain.api_keys (user_id, name, hash, prefix) values ($ann, 'k', sha256(random()::text::bytea), 'pgt_') returning id");
	$hold =~ s/KEY/$key/;
	my $session = open_session($hold);
	$act =~ s/ID\b/$ann/; $act =~ s/KEY/$key/; $act =~ s/SESSION/$session->{id}/;
	is(query("set statement_timeout = '20s'; select pgtrain.$act"), 't', "holding $what does not hold up $act");
	is(!!survives($session), !!$survives, $survives ? 'nor need his connection be ended' : 'his connection was ended');
	query("select pgtrain.activate_user($ann)");
}

# Users among themselves wait for each other as before: what they do is not urgent.
my $token = query("select session_token from pgtrain.login('ann', 'correct horse battery')");
my $session = open_session("update pgtrain.users set name = 'still here'");
my ($rc, $out, $err) = $node->psql('postgres', "select pgtrain.authenticate('$token', true) = $ann;
set statement_timeout = '2s'; select pgtrain.deactivate_user(password => 'correct horse battery')");
like($err, qr/statement timeout/, 'what somebody does to his own account waits');
ok(survives($session), 'and ends nobody');
# Nor does it keep logins to his account waiting, those that succeed and those that fail.
query("select pgtrain.activate_user($ann)");
my $holder = open_session("update pgtrain.users set name = 'I hold'");
for my $case ([ 'correct horse battery', 'right' ], [ 'not his password', 'wrong' ])
{
	my ($rc, $out, $err) = $node->psql('postgres', "set statement_timeout = '20s'; select session_token is not null from pgtrain.login('ann', '$case->[0]')");
	unlike($err, qr/timeout/, "a login with the $case->[1] password is answered while he holds his row");
	is($out, $case->[1] eq 'right' ? 't' : '', 'as it is without');
}
ok(survives($holder), 'and his session stays');
$node->stop;
done_testing();
