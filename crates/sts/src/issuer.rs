//! The issuer's side: which identifier a token gets, whether its key may still be used, what a repeated request is
//! answered. A pure decision: the caller makes the new account durable, then lets the tokens go.

use alloc::vec::Vec;

use gridseal_types::UtcTime;

use crate::{
    amount::{Amount, AmountError, Money},
    identity::{KeyAttributes, KeyType},
    tid::{BaseDate, Tid, TidError},
    token::{Commodity, Content, Function},
};

/// How far ahead of the clock identifiers may run for one meter, minutes: so many tokens in a minute, and no more.
pub const AHEAD_MAX_MIN: u32 = 60;
/// How long a request is remembered, so that a repeated one gets the same token: 30 days, seconds.
pub const REMEMBERED_S: u64 = 30 * 86_400;
/// Requests that are remembered for a meter at most; with so many in 30 days, no more tokens are issued.
pub const REQUESTS_MAX: usize = 1_024;

/// Names a request, chosen by who asks; a repeated request has the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub [u8; 16]);

/// What a token is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Credit, in tenths of the unit.
    Credit(Commodity, i64),
    /// Credit in money, in 10^-5 of the currency's base unit.
    Currency(Commodity, i64),
    /// A management function; watts for limits, the raw number for others.
    Management(Function, i64),
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Name.
    pub id: RequestId,
    /// What the token is to say.
    pub order: Order,
    /// 4 random bits from a good source.
    pub random: u8,
    /// The key to be used. When it is another than the meter has, a key change comes first.
    pub attributes: KeyAttributes,
}

/// What was decided for a request: the same again for the same request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issued {
    /// Request.
    pub request: Request,
    /// Key that the meter had, when a key change set comes first.
    pub key_change_from: Option<KeyAttributes>,
    /// Contents of the token, under the request's key.
    pub content: Content,
    /// Minutes that the identifier runs ahead of the clock, because the minute was taken.
    pub ahead_min: u32,
    /// When it was decided.
    pub at: UtcTime,
}

/// What the issuer knows of one meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Key that the meter is known to have.
    pub attributes: KeyAttributes,
    /// Key to which a change was issued, until [`Self::confirm`]: the customer may never have entered it.
    pub pending: Option<KeyAttributes>,
    /// Minute of the last identifier used: as a time, so that it counts across base dates.
    pub last_minute: Option<UtcTime>,
    /// Requests of the last 30 days and what they got, oldest first.
    pub recent: Vec<Issued>,
}

/// A request that gets no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The amount does not fit.
    #[error(transparent)]
    Amount(#[from] AmountError),
    /// The time does not fit the base date.
    #[error(transparent)]
    Tid(#[from] TidError),
    /// No token is issued on a base date that has rolled over.
    #[error("base date 1993 has ended: move the meter to 2014 by a key change with roll-over")]
    RolledOver,
    /// The key's life has ended.
    #[error("key has expired: tokens of period {period} are beyond its expiry number {expiry}")]
    KeyExpired {
        /// Period of the token.
        period: u8,
        /// Expiry number of the key.
        expiry: u8,
    },
    /// Credit under a default key.
    #[error("credit needs a key of type 2 or 3, this one is a default key")]
    DefaultKey,
    /// The present key may not bring in the wanted one.
    #[error("a key of type {from} may not bring in one of type {to}")]
    KeyType {
        /// Type of the present key.
        from: u8,
        /// Type of the wanted one.
        to: u8,
    },
    /// The wanted base date is not the present or the next one.
    #[error("a key change leads to the next base date only")]
    Base,
    /// Too many tokens in a short time.
    #[error(
        "identifiers for this meter run {ahead_min} min ahead of the clock, the limit is {AHEAD_MAX_MIN}"
    )]
    TooMany {
        /// How far ahead.
        ahead_min: u32,
    },
    /// So many requests in 30 days that no further one could be remembered.
    #[error("{REQUESTS_MAX} requests in 30 days: a further one could not be remembered")]
    Remembered,
    /// No change to this key waits for a confirmation.
    #[error("no change to this key waits for a confirmation")]
    NotPending,
    /// A key change was issued that is not confirmed, and the request is for another key.
    #[error(
        "a change to key revision {revision} is not confirmed: ask for that key, confirm it or withdraw it"
    )]
    Pending {
        /// Revision of the key to which a change was issued.
        revision: u8,
    },
    /// The same request id with another request.
    #[error("this request id was used for another request")]
    Conflict,
    /// A value that the function does not take.
    #[error("value {0} is out of the function's range")]
    Value(i64),
}

impl Account {
    /// A meter that is known by its key.
    #[must_use]
    pub const fn new(attributes: KeyAttributes) -> Self {
        Self { attributes, pending: None, last_minute: None, recent: Vec::new() }
    }

    /// Decides a request. The first value is the account as it must be durable before a token leaves; it is `None` when
    /// the request was decided before.
    ///
    /// # Errors
    /// [`IssueError`]; nothing changes.
    pub fn issue(&self, request: Request, now: UtcTime) -> Result<(Option<Self>, Issued), IssueError> {
        if let Some(issued) = self.recent.iter().find(|issued| issued.request.id == request.id) {
            let same =
                issued.request.order == request.order && issued.request.attributes == request.attributes;
            return if same { Ok((None, *issued)) } else { Err(IssueError::Conflict) };
        }
        let key_change_from = self.key_change_to(&request.attributes)?;
        let base = request.attributes.base;
        let (tid, ahead_min) = next_tid(base, now, self.last_minute)?;
        may_use(&request, tid)?;
        let content = content(request.order, request.random, tid)?;
        let issued = Issued { request, key_change_from, content, ahead_min, at: now };
        let mut account = self.clone();
        account.pending = key_change_from.map(|_| request.attributes);
        account.last_minute = Some(tid.time(base));
        account.recent.retain(|issued| now.0.saturating_sub(issued.at.0) <= REMEMBERED_S);
        if account.recent.len() >= REQUESTS_MAX {
            return Err(IssueError::Remembered);
        }
        account.recent.push(issued);
        Ok((Some(account), issued))
    }

    /// The meter is known to have the key to which a change was issued: by its token status, or by an operator's word.
    /// Until then every token comes with the change before it.
    ///
    /// # Errors
    /// [`IssueError::NotPending`].
    pub fn confirm(&self, attributes: &KeyAttributes) -> Result<Self, IssueError> {
        if self.pending.as_ref() != Some(attributes) {
            return Err(IssueError::NotPending);
        }
        Ok(Self { attributes: *attributes, pending: None, ..self.clone() })
    }

    /// The meter is known not to have the key to which a change was issued, and never to get it: the set is destroyed.
    ///
    /// # Errors
    /// [`IssueError::NotPending`].
    pub fn withdraw(&self, attributes: &KeyAttributes) -> Result<Self, IssueError> {
        if self.pending.as_ref() != Some(attributes) {
            return Err(IssueError::NotPending);
        }
        Ok(Self { pending: None, ..self.clone() })
    }

    fn key_change_to(&self, wanted: &KeyAttributes) -> Result<Option<KeyAttributes>, IssueError> {
        // Nobody knows which of the two keys the meter has: a token under the old one may be money for nothing.
        if let Some(pending) = self.pending.filter(|pending| pending != wanted) {
            return Err(IssueError::Pending { revision: pending.revision.value() });
        }
        let present = self.attributes;
        if present == *wanted {
            return Ok(None);
        }
        let (from, to) = (present.key_type, wanted.key_type);
        if !from.may_bring(to) {
            return Err(IssueError::KeyType { from: from.number(), to: to.number() });
        }
        if wanted.base != present.base && present.base.next() != Some(wanted.base) {
            return Err(IssueError::Base);
        }
        Ok(Some(present))
    }
}

fn next_tid(base: BaseDate, now: UtcTime, last: Option<UtcTime>) -> Result<(Tid, u32), IssueError> {
    //= STS A3: after its roll-over nothing is issued on base date 1993
    let at = |time| match Tid::at(base, time) {
        Err(TidError::After(BaseDate::Y1993)) => Err(IssueError::RolledOver),
        tid => tid.map_err(IssueError::Tid),
    };
    let of_now = at(now)?;
    //= STS A3: no identifier twice for a meter; a second token of a minute takes the next free one
    let tid = match last {
        Some(last) if last >= of_now.time(base) => at(last)?.next().ok_or(TidError::After(base))?,
        _ => of_now,
    };
    let ahead_min = tid.bits().saturating_sub(of_now.bits());
    if ahead_min > AHEAD_MAX_MIN {
        return Err(IssueError::TooMany { ahead_min });
    }
    Ok((tid, ahead_min))
}

fn may_use(request: &Request, tid: Tid) -> Result<(), IssueError> {
    let KeyAttributes { expiry, key_type, .. } = request.attributes;
    //= STS A5: beyond the expiry number neither tokens with an identifier nor a change to the key are issued
    if expiry.has_expired(tid) {
        return Err(IssueError::KeyExpired { period: tid.period(), expiry: expiry.0 });
    }
    let is_credit = matches!(request.order, Order::Credit(..) | Order::Currency(..));
    if is_credit && key_type == KeyType::Default {
        return Err(IssueError::DefaultKey);
    }
    Ok(())
}

fn content(order: Order, random: u8, tid: Tid) -> Result<Content, IssueError> {
    let random = random & 0xF;
    Ok(match order {
        Order::Credit(commodity, value) => {
            Content::Credit { commodity, random, tid, amount: Amount::new(value)? }
        }
        Order::Currency(commodity, value) => Content::Currency { commodity, tid, amount: Money::new(value)? },
        Order::Management(function, value) => {
            let value = if function.is_amount() {
                Amount::new(value)?.bits()
            } else {
                u16::try_from(value).map_err(|_| IssueError::Value(value))?
            };
            let fits = match function {
                Function::ClearTamper => value == 0,
                Function::ClearCredit => matches!(value, 0..=7 | 0xFFFF),
                _ => true,
            };
            if !fits {
                return Err(IssueError::Value(i64::from(value)));
            }
            Content::Management { function, random, tid, value }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{KeyExpiryNumber, KeyRevisionNumber, SupplyGroupCode, TariffIndex};
    use alloc::collections::BTreeSet;

    fn attributes() -> KeyAttributes {
        KeyAttributes {
            key_type: KeyType::Unique,
            supply_group: SupplyGroupCode::new(201_457).unwrap(),
            tariff_index: TariffIndex::new(1).unwrap(),
            revision: KeyRevisionNumber::new(1).unwrap(),
            expiry: KeyExpiryNumber(255),
            base: BaseDate::Y2014,
        }
    }

    fn request(number: u8) -> Request {
        let order = Order::Credit(Commodity::Electricity, i64::from(number));
        Request { id: RequestId([number; 16]), order, random: 5, attributes: attributes() }
    }

    const NOON: u64 = 1_795_608_000;

    //= STS A3: no identifier twice for a meter; a second token of a minute takes the next free one
    #[test]
    fn tokens_of_one_minute_take_the_next_free_ones_up_to_the_limit() {
        let mut account = Account::new(attributes());
        let mut tids = BTreeSet::new();
        for number in 0..=60 {
            let (next, issued) = account.issue(request(number), UtcTime(NOON)).unwrap();
            assert_eq!(issued.ahead_min, u32::from(number));
            assert!(tids.insert(issued.content.tid().unwrap()));
            account = next.unwrap();
        }
        let refused = account.issue(request(61), UtcTime(NOON)).unwrap_err();
        assert_eq!(refused, IssueError::TooMany { ahead_min: 61 });
        // A clock that is set back gives out nothing twice.
        assert!(account.issue(request(61), UtcTime(NOON - 60)).is_err());
        let (_, later) = account.issue(request(61), UtcTime(NOON + 3_600)).unwrap();
        assert!(tids.insert(later.content.tid().unwrap()));
    }

    #[test]
    fn a_repeated_request_gets_the_same_and_its_id_serves_no_other() {
        let account = Account::new(attributes());
        let (next, issued) = account.issue(request(1), UtcTime(NOON)).unwrap();
        let account = next.unwrap();
        let again = Request { random: 9, ..request(1) };
        assert_eq!(account.issue(again, UtcTime(NOON + 600)), Ok((None, issued)));
        let other = Request { id: RequestId([1; 16]), ..request(2) };
        assert_eq!(account.issue(other, UtcTime(NOON)), Err(IssueError::Conflict));
    }

    //= STS A5: beyond the expiry number neither tokens with an identifier nor a change to the key are issued
    #[test]
    fn an_expired_key_issues_nothing_and_is_no_new_key_but_may_be_the_old_one() {
        let expired = KeyAttributes { expiry: KeyExpiryNumber(85), ..attributes() };
        let account = Account::new(expired);
        let under = Request { attributes: expired, ..request(1) };
        assert!(matches!(
            account.issue(under, UtcTime(NOON)),
            Err(IssueError::KeyExpired { expiry: 85, .. })
        ));
        let (next, issued) = account.issue(request(1), UtcTime(NOON)).unwrap();
        assert_eq!(issued.key_change_from, Some(expired));
        // The customer may never have entered the change: it comes again until somebody says that it arrived.
        let account = next.unwrap();
        let (next, issued) = account.issue(request(2), UtcTime(NOON)).unwrap();
        assert_eq!(issued.key_change_from, Some(expired));
        assert_eq!(next.as_ref().unwrap().confirm(&expired), Err(IssueError::NotPending));
        let account = next.unwrap().confirm(&attributes()).unwrap();
        assert_eq!(account.issue(request(3), UtcTime(NOON)).unwrap().1.key_change_from, None);
    }

    #[test]
    fn a_request_is_remembered_for_thirty_days_and_nothing_is_issued_that_cannot_be() {
        let mut account = Account::new(attributes());
        let at = |number: u64| UtcTime(NOON + number * 120);
        for number in 0..REQUESTS_MAX as u64 {
            let id = RequestId(u128::from(number).to_be_bytes());
            account = account.issue(Request { id, ..request(1) }, at(number)).unwrap().0.unwrap();
        }
        let first = Request { id: RequestId([0; 16]), ..request(1) };
        assert!(account.issue(first, at(2_000)).unwrap().0.is_none(), "the first one is still known");
        let further = Request { id: RequestId([9; 16]), ..request(1) };
        assert_eq!(account.issue(further, at(2_000)), Err(IssueError::Remembered));
        assert!(account.issue(further, UtcTime(NOON + REMEMBERED_S + 86_400)).is_ok());
    }

    #[test]
    fn only_known_changes_of_key_are_made() {
        let with = |key_type, base| KeyAttributes { key_type, base, ..attributes() };
        let change = |from, to| {
            Account::new(from).issue(Request { attributes: to, ..request(1) }, UtcTime(NOON)).unwrap_err()
        };
        assert_eq!(
            change(with(KeyType::Default, BaseDate::Y2014), with(KeyType::Unique, BaseDate::Y2014)),
            IssueError::KeyType { from: 1, to: 2 }
        );
        assert_eq!(
            change(with(KeyType::Unique, BaseDate::Y1993), with(KeyType::Unique, BaseDate::Y2035)),
            IssueError::Base
        );
        let old = with(KeyType::Unique, BaseDate::Y1993);
        assert_eq!(change(old, old), IssueError::RolledOver);
        let then = UtcTime(1_000_000_000);
        let asked = Request { attributes: old, ..request(1) };
        assert!(Account::new(old).issue(asked, then).is_ok(), "before its roll-over it was issued on");
        let default = with(KeyType::Default, BaseDate::Y2014);
        assert_eq!(change(default, default), IssueError::DefaultKey);
    }

    #[test]
    fn while_a_key_change_waits_no_token_is_issued_under_another_key() {
        let old = KeyAttributes { tariff_index: TariffIndex::new(7).unwrap(), ..attributes() };
        let waiting = Account::new(old).issue(request(1), UtcTime(NOON)).unwrap().0.unwrap();
        let under_old = Request { attributes: old, ..request(3) };
        assert_eq!(waiting.issue(under_old, UtcTime(NOON)), Err(IssueError::Pending { revision: 1 }));
        let withdrawn = waiting.withdraw(&attributes()).unwrap();
        assert_eq!(withdrawn.issue(under_old, UtcTime(NOON)).unwrap().1.key_change_from, None);
        assert_eq!(withdrawn.last_minute, waiting.last_minute, "identifiers stay used");
        assert_eq!(withdrawn.withdraw(&attributes()), Err(IssueError::NotPending));
    }

    #[test]
    fn identifiers_rise_across_a_change_of_base_date() {
        let start = UtcTime::from_civil(2035, 1, 1, 0, 0, 0).unwrap();
        let on = |base| KeyAttributes { base, ..attributes() };
        let ask = |number, base| Request { attributes: on(base), ..request(number) };
        let mut account = Account::new(on(BaseDate::Y2014));
        for number in 0..5 {
            account = account.issue(ask(number, BaseDate::Y2014), start).unwrap().0.unwrap();
        }
        let (moved, issued) = account.issue(ask(9, BaseDate::Y2035), start).unwrap();
        let minute = issued.content.tid().unwrap().time(BaseDate::Y2035);
        assert!(minute > account.last_minute.unwrap());
        let back = moved.unwrap().withdraw(&on(BaseDate::Y2035)).unwrap();
        let (_, issued) = back.issue(ask(10, BaseDate::Y2014), start).unwrap();
        assert!(issued.content.tid().unwrap().time(BaseDate::Y2014) > minute);
    }

    #[test]
    fn a_register_that_no_meter_has_is_not_cleared() {
        let account = Account::new(attributes());
        let clear = |value| {
            let order = Order::Management(Function::ClearCredit, value);
            account.issue(Request { order, ..request(1) }, UtcTime(NOON)).map(|_| ())
        };
        assert!(clear(7).is_ok() && clear(0xFFFF).is_ok());
        for value in [-1, 8, 0xFFFE, 0x1_0000] {
            assert_eq!(clear(value), Err(IssueError::Value(value)));
        }
    }
}
