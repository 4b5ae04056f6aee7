/*
 * nodes.h: the other nodes of the cluster, as this router has them; shared by
 * the files that speak of them.
 *
 *	nodes.c		who there is: links (lib/mesh), what is copied (lib/rlog),
 *			numbers in the index, liveness, what cluster-links are told
 *	share.c		the rows: ours out of the rib into our stream, others'
 *			out of theirs into the rib
 *	follow.c	a replicant: which core it follows
 *	belong.c	who belongs to the cluster (cluster.h), over these links
 *	claims.c	one holder of a client identifier (lib/registrar)
 *
 * A node without a cluster has no struct nodeset: router.nodes is NULL, and
 * nothing of this costs anything.
 */
#ifndef NODES_H
#define NODES_H

#include "cluster.h"
#include "mesh/mesh.h"
#include "proto/claim.h"
#include "proto/noderow.h"
#include "proto/nodes.h"
#include "rlog/message.h"
#include "rlog/rlog.h"
#include "router.h"

enum {
	TABLE_ROUTE	= 1,		/* of rlog: route.<node> */
	TABLE_ROWS	= 2,		/* rows.<core>: members */

	NODES_BIND_MS	= 2000,		/* between tries to bind */
	NODES_LEARN_MS	= 5000,		/* routes of others are waited for */
	NODES_STILL_MS	= 5000,		/* nothing flows: it is given up */
	NODES_TIDY	= 512,		/* rows, between two looks at the clock */
	NODES_FOLLOW_MS	= 60000,	/* with one core, then look for a better */
	NODES_DESKS	= 64,		/* session-stores of a node */
	NODES_LINKS	= 64,		/* cluster-links heard of their flow */
};

struct node {
	UT_hash_handle	 hh;		/* by id */
	uint64_t	 id;		/* in rlog: its join id */
	char		 name[NODE_NAME_MAX + 1];	/* "": not known yet */
	unsigned	 index;		/* in the index; 0: none */
	int		 owner[NODEROW_CLASSES];	/* in the rib; -1: none yet */
	enum node_state	 state;		/* its router, as it seems to us */
	enum fib_state	 fib;		/* as it is in the index, */
	uint64_t	 fib_incarnation;	/* with this one */

	struct mesh_node *mesh;		/* linked, else NULL */
	struct rlog_link *link;		/* rlog's on it; NULL: none */
	uint64_t	 incarnation;	/* of its router, as heard last */
	bool		 core;
	uint32_t	 ports[NODE_LINKS_MAX];
	unsigned	 about;		/* rows that are no routes: bits by kind */
	bool		 parked;	/* it waits for mqttc-cluster heal */
	bool		 hold;		/* ... or may have to when it is back */
	bool		 dirty;		/* rlog has something to say there */

	bool		 fill;		/* rows wait to be put into the rib */
	uint64_t	 fill_at;
	bool		 gone;		/* no member any more: to be barred */
	bool		 barred;	/* its routes go, then it */
	uint64_t	 still_ms;	/* nothing flows since; 0: it does */
	uint64_t	 flows, told;	/* bits by cluster-link: what it says */
	struct claim_out claims;	/* about identifiers, for it */
	uint64_t	 desks;		/* bits: its stores heard of */
	bool		 claims_short;	/* ... which were too many */
	bool		 claims_up;	/* the registrar there is in reach */
	bool		 claims_down;	/* ours was told that it is down */
	uint64_t	 boot_ms;	/* a scan began then; 0: none under way */
};

/* A cluster-link of this node. */
struct linkproc {
	struct linkproc	*next;
	char		 name[BUS_NAME_MAX];
	uint32_t	 instance;
	uint64_t	 incarnation;
	struct bus_peer	*peer;
	bool		 due;		/* NODES are to be told */
	uint32_t	 port;		/* that it has bound; 0: none yet */
};

struct nodeset {
	struct router	*r;
	struct mesh	*mesh;		/* NULL: not bound (yet) */
	struct secret	 secret;
	char		 host[MESH_HOST_MAX];
	uint16_t	 port;
	uint64_t	 bind_ms;	/* try again then */
	uint64_t	 id;
	bool		 core;

	struct rlog	*rlog;
	struct rlog_stream *own;
	unsigned	 about;		/* as of a node */
	uint32_t	 ports[NODE_LINKS_MAX];	/* as told in it */
	bool		 ended;		/* rlog_end was said */
	bool		 fill;		/* our rows are not all in it */
	uint64_t	 fill_at;
	uint64_t	 row_seq;	/* of rows put since somebody asked */
	bool		 confirm;	/* something may be to be confirmed */
	bool		 state_due;	/* somebody's state may be another one */
	bool		 tidy;

	struct node	*all;		/* uthash, by id */
	char		 names[FIB_NODES][NODE_NAME_MAX + 1];
	unsigned	 nnames;	/* numbers given so far */

	struct node	*follows;	/* replicant: the core */
	struct node	*leaving;	/* ... and the one before, for a while */
	uint64_t	 follows_ms;

	struct rlog_stream *rows;	/* core: of members */
	bool		 rows_ended;
	bool		 members_due;	/* members came, went, changed */
	bool		 forget_due;	/* somebody may be no peer any more */
	uint64_t	 view_ms;	/* when our view is to be told */
	struct member_verdict verdict;	/* of the hello judged last */
	uint8_t		*answer;	/* to a join, told last */
	char		 joining[MEMBER_NAME_MAX];	/* whom we asked */

	struct claims	*claims;
	struct linkproc	*links;
	uint64_t	 version;	/* of NODES */

	uint64_t	 boot_time_ms;	/* the longest bootstrap */
	uint8_t		 buf[RLOG_BUF_MIN];
};

static inline struct node *
node_by_id(struct nodeset *ns, uint64_t id)
{
	struct node	*n;

	HASH_FIND(hh, ns->all, &id, sizeof(id), n);
	return n;
}

/* --- nodes.c --- */

/* The node of this id, made if need be; NULL: no memory. */
struct node *node_get(struct nodeset *ns, uint64_t id);
/* It is called so: from now on its rows can be put into the index. */
void node_named(struct nodeset *ns, struct node *n, const void *name,
    size_t len);
/* Its cluster-links take messages there. */
void node_ports(struct nodeset *ns, struct node *n,
    const uint32_t ports[NODE_LINKS_MAX]);
/* The cluster-links are to be told who there is. */
void nodes_changed(struct nodeset *ns);
/* rlog begins, or ends, to use the connection with n. 0 or ERR_NOMEM. */
int node_link(struct nodeset *ns, struct node *n);
void node_unlink(struct nodeset *ns, struct node *n, bool left);
/* Say to n what rlog has to say. True: nothing is left. */
bool node_flush(struct nodeset *ns, struct node *n);

/* --- share.c --- */

int share_open(struct nodeset *ns);
/* Where our cluster-links take messages, for who has no link with us. */
void share_ports(struct nodeset *ns, const uint32_t ports[NODE_LINKS_MAX]);
/* Of a stream that is followed; as rlog calls it. */
int share_row(void *ctx, struct rlog_stream *s, const struct rlog_row *row);
/* Put what is there into the rib, a slice. True: there is more. */
bool share_fill(struct nodeset *ns, struct node *n);
/* The same of what we have, into our stream. */
bool share_fill_own(struct nodeset *ns);
/* Take rows of a node that is no member any more out. True: there is more. */
bool share_clear(struct nodeset *ns, struct node *n);

/* --- follow.c --- */

void follow_tick(struct nodeset *ns, uint64_t now);
void follow_down(struct nodeset *ns, struct node *n);
void follow_turn(struct nodeset *ns);
/* A replicant says that it follows us, or no longer. */
int follow_asked(struct nodeset *ns, struct node *n, const void *body,
    size_t len);

/* --- belong.c --- */

extern const struct cluster_calls belong_calls;
size_t belong_fill(void *ctx, const char *to, void *buf, size_t size);
enum mesh_status belong_judge(void *ctx, const struct mesh_msg *m,
    bool called, struct mesh_answer *a);
void belong_refused(void *ctx, struct mesh_node *mn,
    const struct mesh_msg *m);
/* Whose hello was judged last is linked with us. 0 or ERR_*. */
int belong_met(struct nodeset *ns);
/* Its state is another one. */
void belong_reach(struct nodeset *ns, const struct node *n);
int belong_row(struct nodeset *ns, uint64_t writer,
    const struct rlog_row *row);
int belong_message(struct nodeset *ns, struct node *n, const void *body,
    size_t len);
/* May rlog use the link with n, or is it parked? Make it so. 0 or ERR_NOMEM. */
int belong_link(struct nodeset *ns, struct node *n);
bool belong_is_saved(struct nodeset *ns);
void belong_turn(struct nodeset *ns);

/* --- claims.c --- */

int claims_open(struct nodeset *ns);
void claims_close(struct nodeset *ns);
/* rlog begins, or ends, to use the connection with n. */
void claims_link(struct nodeset *ns, struct node *n);
void claims_unlink(struct nodeset *ns, struct node *n);
/* Its router is down, and nothing flows there. */
void claims_down(struct nodeset *ns, struct node *n);
/* It is no member any more. */
void claims_forget(struct nodeset *ns, struct node *n);
int claims_message(struct nodeset *ns, struct node *n, const void *body,
    size_t len);
void claims_flush(struct nodeset *ns);
void claims_tick(struct nodeset *ns, uint64_t now);

extern struct metric m_node_rows, m_node_rows_refused;

#endif
