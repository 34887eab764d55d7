/* --template NAME of `run`, `create` and `vm create`: the words of a template as if they had been typed before the
 * user's own, which win. */
#ifndef CLI_TEMPLATE_H
#define CLI_TEMPLATE_H

#include "cli/command.h"
#include "store/template.h"

/* The row of the command table. */
#define CLI_OPTION_TEMPLATE                                                                                     \
    {                                                                                                           \
        "template", 0, "NAME", "take image and options of a template (caisson template ls)", "@template", false \
    }

/* What args then borrows. Ended by cli_template_done in any case. */
struct cli_template {
    struct store_template template;
    struct cli_args *words; /* of the template */
    char **argv, **operands;
};

/* Where args has --template, add what the template says: its image as the first operand (or as --image, where the
 * command has that option), and each option that the user did not give. Without it: nothing. */
int cli_template_apply(const struct cli_command *command, struct cli_args *args, struct cli_template *t,
                       struct err *e) MUST_USE;
void cli_template_done(struct cli_template *t);
/* Whether the command's table takes these words as options; -EINVAL with text. */
int cli_template_check(const struct cli_command *command, const struct inst_strings *words, struct err *e) MUST_USE;

#endif
