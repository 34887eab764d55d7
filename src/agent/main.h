/* caisson-agent: serves the host inside a guest. One process accepts, one child serves each connection. */
#ifndef AGENT_MAIN_H
#define AGENT_MAIN_H

/* Listen on vsock port AGENT_PORT, or at the Unix socket PATH with "--unix PATH" (for tests). Returns the exit code:
 * 0 after SIGTERM. */
int agent_main(int argc, char **argv);

#endif
