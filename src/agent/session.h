/* What is done for one connection. */
#ifndef AGENT_SESSION_H
#define AGENT_SESSION_H

/* Serve the connection to its end. fd is borrowed. In a process of its own. */
void agent_session(int fd);

#endif
