/* A process of the guest and the connection that it is served on. */
#ifndef AGENT_STREAM_H
#define AGENT_STREAM_H

struct agent_child;
struct agent_link;

/* Carry bytes, signals and sizes between them until the process has ended and its output is sent, then its status; or
 * until the connection is lost: then the process and its group get SIGHUP, and SIGKILL some time later. */
void agent_stream(struct agent_link *l, struct agent_child *c);

#endif
