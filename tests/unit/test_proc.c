/* proc: names, and the packets of supervise.sock as both ends see them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "proc/proc.h"
#include "proc/sup.h"

static struct sup_msg out, in;		/* large */

static void
names_are_kind_dot_number(void **state UNUSED)
{
	static const char *const	bad[] = {
		"", "listener", "listener.", "listener.00", "listener.01",
		"listener.-1", "listener.x", "listener.1088", "listener.1 ",
		"listener.99999999999", "router.0", "routers", "Router",
		"session-store.0", "session_store", "../router",
	};
	enum proc_kind			k;
	uint32_t			n;
	size_t				i;

	assert_int_equal(proc_name_parse("router", &k, &n), 0);
	assert_int_equal(k, PROC_ROUTER);
	assert_int_equal(n, 0);
	assert_int_equal(proc_name_parse("listener.0", &k, &n), 0);
	assert_int_equal(proc_name_parse("listener.1087", &k, &n), 0);
	assert_int_equal(k, PROC_LISTENER);
	assert_int_equal(n, 1087);
	assert_int_equal(proc_name_parse("session_store.3", &k, &n), 0);
	assert_int_equal(k, PROC_SESSION_STORE);
	assert_int_equal(n, 3);
	assert_string_equal(proc_kind_name(k), "session_store");
	assert_string_equal(proc_kind_program(k), "mqttc-session-store");
	assert_null(proc_kind_program(PROC_NKINDS));
	for (i = 0; i < NELEM(bad); i++)
		assert_int_equal(proc_name_parse(bad[i], &k, &n), ERR_INVAL);
}

static int
round_trip(void)
{
	static uint8_t	buf[SUP_PACKET_MAX];
	size_t		len = sizeof(buf);

	assert_int_equal(sup_encode(&out, buf, &len), 0);
	memset(&in, 0xa5, sizeof(in));
	return sup_decode(buf, len, &in);
}

static void
the_largest_list_of_peers_comes_in_packets(void **state UNUSED)
{
	static struct proc_peer	list[PROC_PEERS_MAX];
	size_t			i, n = 99;
	SupPeer			*p;

	memset(&out, 0, sizeof(out));
	out.kind = KIND_SUP_PEERS;
	out.u.peers.peers_count = NELEM(out.u.peers.peers);
	out.u.peers.first = true;
	for (i = 0; i < NELEM(out.u.peers.peers); i++) {
		p = &out.u.peers.peers[i];
		memset(p->name, 'n', sizeof(p->name) - 1);
		memset(p->endpoint, 'e', sizeof(p->endpoint) - 1);
		p->kind = PROC_CLUSTER_LINK;
		p->state = PROC_DRAINING;
		p->incarnation = UINT64_MAX;
		p->instance = p->pid = UINT32_MAX;
	}
	for (i = 0; i + NELEM(out.u.peers.peers) <= PROC_PEERS_MAX;
	    i += NELEM(out.u.peers.peers)) {
		assert_int_equal(round_trip(), 0);
		assert_int_equal(sup_peers_take(&in.u.peers, list, &n),
		    ERR_AGAIN);
		out.u.peers.first = false;
	}
	assert_int_equal(n, i);
	assert_string_equal(list[i - 1].endpoint,
	    out.u.peers.peers[0].endpoint);
	assert_int_equal(list[i - 1].incarnation, UINT64_MAX);
	assert_int_equal(sup_peers_take(&in.u.peers, list, &n), ERR_PROTO);
	in.u.peers.first = in.u.peers.last = true;
	assert_int_equal(sup_peers_take(&in.u.peers, list, &n), 0);
	assert_int_equal(n, NELEM(out.u.peers.peers));
}

static void
numbers_out_of_range_are_refused(void **state UNUSED)
{
	memset(&out, 0, sizeof(out));
	out.kind = KIND_SUP_HELLO;
	out.u.hello.state = PROC_NSTATES;
	assert_int_equal(round_trip(), ERR_PROTO);

	memset(&out, 0, sizeof(out));
	out.kind = KIND_SUP_PEERS;
	out.u.peers.peers_count = 1;
	out.u.peers.peers[0].kind = PROC_NKINDS;
	assert_int_equal(round_trip(), ERR_PROTO);

	memset(&out, 0, sizeof(out));
	out.kind = KIND_SUP_SOCKETS;
	out.u.sockets.sockets_count = 1;
	out.u.sockets.sockets[0].index = PROC_SOCKETS_MAX;
	assert_int_equal(round_trip(), ERR_PROTO);

	memset(&out, 0, sizeof(out));
	out.kind = KIND_SUP_SEGMENT;
	out.u.segment.kind = PROC_NSEGMENT_KINDS;
	assert_int_equal(round_trip(), ERR_PROTO);

	memset(&out, 0, sizeof(out));
	out.kind = KIND_SUP_REQUEST;
	out.u.request.op = (SupOp)(_SupOp_MAX + 1);
	assert_int_equal(round_trip(), ERR_PROTO);
}

static void
unknown_kinds_and_short_packets_are_refused(void **state UNUSED)
{
	uint8_t	buf[2] = { 0, 0 };
	int	k;

	assert_int_equal(sup_decode(buf, 0, &in), ERR_PROTO);
	assert_int_equal(sup_decode(buf, 1, &in), ERR_PROTO);
	for (k = 0; k < 65536; k++) {
		put_le16(buf, (uint16_t)k);
		if (k < KIND_SUP_HELLO || k > KIND_SUP_RESULT)
			assert_int_equal(sup_decode(buf, 2, &in), ERR_PROTO);
	}
	put_le16(buf, KIND_SUP_READY);
	assert_int_equal(sup_decode(buf, 2, &in), 0);
	assert_int_equal(in.kind, KIND_SUP_READY);
}

static void
pair(int s[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0,
	    s), 0);
}

static void
descriptors_travel_with_their_packet(void **state UNUSED)
{
	int	s[2], p[2], fds[SUP_FDS_MAX], many[SUP_FDS_MAX];
	size_t	n, i;
	char	c = 0;

	pair(s);
	assert_int_equal(pipe(p), 0);
	memset(&out, 0, sizeof(out));
	out.kind = KIND_SUP_CONF;
	out.u.conf.generation = 7;
	assert_int_equal(sup_send(s[0], &out, &p[1], 1), 0);
	assert_int_equal(sup_recv(s[1], &in, fds, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(in.u.conf.generation, 7);
	assert_int_equal(write(fds[0], "x", 1), 1);
	assert_int_equal(read(p[0], &c, 1), 1);
	assert_int_equal(c, 'x');
	close(fds[0]);

	for (i = 0; i < SUP_FDS_MAX; i++)
		many[i] = p[1];
	assert_int_equal(sup_send(s[0], &out, many, SUP_FDS_MAX), 0);
	assert_int_equal(sup_recv(s[1], &in, fds, &n), 0);
	assert_int_equal(n, SUP_FDS_MAX);
	sup_close_fds(fds, n);

	assert_int_equal(sup_recv(s[1], &in, fds, &n), ERR_AGAIN);
	close(s[0]);
	assert_int_equal(sup_recv(s[1], &in, fds, &n), ERR_IO);
	assert_int_equal(errno, EPIPE);
	close(s[1]);
	close(p[0]);
	close(p[1]);
}

static void
a_reader_that_is_stopped_blocks_nobody(void **state UNUSED)
{
	int	s[2], rc, n = 0;

	pair(s);
	memset(&out, 0, sizeof(out));
	out.kind = KIND_SUP_PING;
	while ((rc = sup_send(s[0], &out, NULL, 0)) == 0)
		assert_true(n++ < 100000);
	assert_int_equal(rc, ERR_AGAIN);
	close(s[1]);
	assert_int_equal(sup_send(s[0], &out, NULL, 0), ERR_IO);
	close(s[0]);
}

static void
rubbish_loses_its_descriptors(void **state UNUSED)
{
	union {
		struct cmsghdr	align;
		char		space[CMSG_SPACE(sizeof(int))];
	} ctl;
	char		bad[] = "\xff\xff\xff";
	struct iovec	iov = { bad, 3 };
	struct msghdr	m = { .msg_iov = &iov, .msg_iovlen = 1,
			      .msg_control = ctl.space,
			      .msg_controllen = sizeof(ctl.space) };
	struct cmsghdr	*c = CMSG_FIRSTHDR(&m);
	int		s[2], p[2], fds[SUP_FDS_MAX];
	size_t		n;
	char		b;

	pair(s);
	assert_int_equal(pipe(p), 0);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &p[1], sizeof(int));
	assert_int_equal(sendmsg(s[0], &m, 0), 3);
	close(p[1]);
	assert_int_equal(sup_recv(s[1], &in, fds, &n), ERR_PROTO);
	assert_int_equal(read(p[0], &b, 1), 0);		/* nobody has it */
	close(p[0]);
	close(s[0]);
	close(s[1]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_kind_dot_number),
		cmocka_unit_test(the_largest_list_of_peers_comes_in_packets),
		cmocka_unit_test(numbers_out_of_range_are_refused),
		cmocka_unit_test(unknown_kinds_and_short_packets_are_refused),
		cmocka_unit_test(descriptors_travel_with_their_packet),
		cmocka_unit_test(a_reader_that_is_stopped_blocks_nobody),
		cmocka_unit_test(rubbish_loses_its_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
