use super::*;

#[test]
fn a_reseed_term_is_above_every_campaign_so_far() {
    assert_eq!(reseed_term(Term(0)), Term(1 << 32));
    assert_eq!(reseed_term(Term(7)), Term(1 << 32));
    assert_eq!(reseed_term(Term(1 << 32)), Term(2 << 32));
    assert_eq!(reseed_term(Term((1 << 32) + 9)), Term(2 << 32));
    assert!(is_reseed_term(reseed_term(Term(123))));
    assert!(!is_reseed_term(Term(0)) && !is_reseed_term(Term((1 << 32) + 1)));
}
