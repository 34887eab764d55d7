/* Entry point of caisson-agent, the program inside a guest. */
#include "agent/main.h"

int main(int argc, char **argv)
{
    return agent_main(argc, argv);
}
