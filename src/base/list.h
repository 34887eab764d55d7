/* Intrusive circular doubly linked list. A head is a struct list initialised by list_init. Not thread-safe. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>

#include "base/attr.h"

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}

static inline bool list_empty(const struct list *head)
{
    return head->next == head;
}

/* Insert item before pos; with pos = head: at the tail. */
static inline void list_add_before(struct list *pos, struct list *item)
{
    item->next = pos;
    item->prev = pos->prev;
    pos->prev->next = item;
    pos->prev = item;
}

/* Unlink; the item is left as an empty list, so a second removal is harmless. */
static inline void list_remove(struct list *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    list_init(item);
}

/* Iterate; the current item may be removed inside the loop. */
#define LIST_FOR_EACH(var, head, member)                                                            \
    for (__typeof__(var) var##_next_ = (var = CONTAINER_OF((head)->next, __typeof__(*var), member), \
                                       CONTAINER_OF(var->member.next, __typeof__(*var), member));   \
         &var->member != (head);                                                                    \
         var = var##_next_, var##_next_ = CONTAINER_OF(var->member.next, __typeof__(*var), member))

#endif
