/* Token buckets. */
#include "net/switch_priv.h"

#define NET_RATE_NS 1000000000ULL

void net_rate_init(struct net_rate *r, uint64_t per_s, uint64_t burst, uint64_t now_ns)
{
    *r = (struct net_rate){ .per_s = MIN(per_s, (uint64_t)INT64_MAX / 4), .at_ns = now_ns };
    r->burst = MIN(burst, (uint64_t)INT64_MAX / 4);
    r->tokens = (int64_t)r->burst;
}

bool net_rate_take(struct net_rate *r, uint64_t n, uint64_t now_ns)
{
    uint64_t gone_ns = now_ns > r->at_ns ? now_ns - r->at_ns : 0;
    unsigned __int128 earned;

    if (r->per_s == 0)
        return true;
    earned = (unsigned __int128)gone_ns * r->per_s / NET_RATE_NS;
    if (earned > 0) { /* else the time counts towards the next token */
        r->at_ns = now_ns;
        r->tokens = earned > r->burst ? (int64_t)r->burst : MIN(r->tokens + (int64_t)earned, (int64_t)r->burst);
    }
    if (r->tokens <= 0)
        return false;
    r->tokens -= (int64_t)MIN(n, (uint64_t)INT32_MAX);
    return true;
}

uint64_t net_rate_ready_ns(const struct net_rate *r)
{
    uint64_t debt = r->tokens > 0 ? 0 : (uint64_t)-r->tokens + 1;

    return r->per_s == 0 ? r->at_ns : r->at_ns + (uint64_t)((unsigned __int128)debt * NET_RATE_NS / r->per_s) + 1;
}
